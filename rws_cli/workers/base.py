"""What all kinds of workers share: the interface, where a worker's models go, and processes that are lost."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rws_cli.answering import Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError
from rws_cli.models.checkpoint import checkpoints
from rws_cli.runs.progress import Progress
from rws_cli.runs.stopping import SIGNALS

TRIES = 3
"""Workers that a batch may take with it before the run gives up."""


class Workers(Protocol):
    """count: batches decoded at once. sources: of the weights that they loaded, for the manifest."""

    count: int
    sources: dict[str, Any]

    def listen(self, progress: Progress) -> None:
        """Tell the user through this how it goes."""

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        """What became of each batch, in the order in which they are done."""


def placed(config: Config, device: str, threads: int) -> Config:
    """The configuration of a worker: model and rewards on its device, unless the user placed them elsewhere."""
    config = deepcopy(config)
    for node in (config.model, *checkpoints(config.reward, "reward").values()):
        if node.device == "auto":
            node.device = device
    config.runtime.threads = config.runtime.threads or threads
    return config


@dataclass
class Worker:
    """A process, the line to it, and the batch that it has in hand."""

    config: Config
    process: Any
    connection: Connection
    batch: list[Example] | None = None


def started(config: Config, serve: Callable[..., None], *more: Any) -> Worker:
    """A new process that serves, with its configuration, its end of the line, and what more it is given."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(config, theirs, *more), daemon=True)
    process.start()
    theirs.close()  # so that its end shows here
    return Worker(config, process, ours)


def ignore_signals() -> None:
    """In a worker: the run's process decides when to stop."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def count_try(tries: dict[str, int], batch: list[Example], why: str) -> None:
    """A batch took a worker with it. Raises RunError if it has taken too many."""
    first = batch[0].id
    tries[first] = tries.get(first, 0) + 1
    if tries[first] == TRIES:
        raise RunError(
            f"{TRIES} workers ended over the batch that begins with example {first}, the last by {why}: out of memory? "
            "Set a smaller runtime.batch_size or fewer runtime.workers."
        )


def cause(worker: Worker) -> str:
    """How a process that died did."""
    worker.process.join(10)
    code = worker.process.exitcode
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
