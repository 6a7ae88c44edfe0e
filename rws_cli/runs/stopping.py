"""What SIGINT and SIGTERM do to a run: the first lets it finish and record the batch in hand, the second stops it at
once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rws_cli.errors import Interrupted


@dataclass
class Stop:
    """The signal that asked for an end; None while nobody has."""

    signal: int | None = None

    def check(self, folder: Path) -> None:
        """Raises Interrupted, naming the run's folder, if the run is to end here."""
        if self.signal is not None:
            raise Interrupted(str(folder), self.signal)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals that come inside set the Stop that this gives; outside of a program's main thread nothing changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number
        print("rws: stopping when the batch in hand is done; once more stops at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
