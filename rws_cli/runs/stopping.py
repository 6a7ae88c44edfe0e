"""Stop a run on SIGINT, SIGTERM or SIGHUP: the first signal after the current batch, the second at once."""

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
    """signal: the one that was received, or None. at_once: whether a signal raises as soon as it is received."""

    signal: int | None = None
    at_once: bool = False

    def check(self, folder: object = "") -> None:
        """Raises Interrupted, naming the run's folder, if a signal was received."""
        if self.signal is not None:
            raise Interrupted(str(folder), self.signal)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """For work that can be repeated: a first signal raises Interrupted inside the block, also one received before."""
        self.check()
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals received inside the block set the Stop that this yields. Has no effect outside the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: Any) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number
        if stop.at_once:
            stop.check()
        _print("rws: Stopping after the current batch; press Ctrl-C again to stop now.")

    before = {
        number: signal.signal(number, on_signal)
        for number in SIGNALS
        # Under nohup, a closed terminal does not stop the run.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # The terminal is closed: discard all further output, so that the run can still be recorded.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
