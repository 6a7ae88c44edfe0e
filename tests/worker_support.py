"""What tests of workers share: a run that is disturbed while it decodes, and two runs compared."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from support import samples_of

RUN = Path("sudoku/small-rws/v001")


def when_decoding(run: Path, do: Callable[[], None]) -> threading.Thread:
    """Do something in another thread once the first samples are there."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not ((run / "samples.jsonl").exists()):
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def same(one: Path, other: Path) -> bool:
    assert samples_of(one) == samples_of(other)
    return pq.read_table(one / "trace.parquet") == pq.read_table(other / "trace.parquet")


def command_line(process: psutil.Process) -> str:
    """ "" of a process that has ended meanwhile."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill_a_worker(named: str) -> Callable[[], None]:
    def kill() -> None:
        children = psutil.Process().children(recursive=True)
        workers = [child for child in children if named in command_line(child)]
        assert workers
        busiest = max(workers, key=lambda worker: sum(worker.cpu_times()[:2]))  # another one may still be loading
        busiest.send_signal(signal.SIGKILL)

    return kill


def pins(manifest: dict[str, Any]) -> dict[str, Any]:
    """What pins a run's weights, examples and parts, whoever decoded: all but the part that is the backend."""
    parts = {key: part for key, part in manifest["sources"]["parts"].items() if key != "runtime.backend"}
    return manifest["sources"] | {"parts": parts}
