"""What SIGINT, SIGTERM and SIGHUP do to a run: the first lets it finish and record the batch in hand, the second stops
it at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rws_cli.errors import SIGNALS, Interrupted


@dataclass
class Stop:
    """signal: the one that asked for an end; None while nobody has. at_once: whether it raises where it arrives."""

    signal: int | None = None
    at_once: bool = False

    def check(self, folder: object = "") -> None:
        """Raises Interrupted, naming the run's folder, if the run is to end here."""
        if self.signal is not None:
            raise Interrupted(str(folder), self.signal)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """For work that can be done again: the first signal raises Interrupted inside, also one that came before."""
        self.check()
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


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
        if stop.at_once:
            stop.check()
        _say("rws: stopping when the batch in hand is done; once more stops at once")

    before = {
        number: signal.signal(number, ask)
        for number in SIGNALS
        # Under nohup a closed terminal is no reason to stop.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except (
        OSError
    ):  # the terminal is closed: what is printed from here on goes nowhere, so that the run can be recorded
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
