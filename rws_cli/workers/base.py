"""The base class of worker backends; where a worker's models go; processes, and what is done about lost ones."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from rws_cli import registry
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import SIGNALS, RunError
from rws_cli.models.base import PreparedModel
from rws_cli.models.checkpoint import checkpoints
from rws_cli.part import Part
from rws_cli.runs.batch_decoder import Outcome
from rws_cli.runs.prepared import PreparedRun

TRIES = 3
"""Workers that may be lost over a batch before the run gives up."""


class Workers(Part):
    """A backend, which decodes the batches of a run.

    count: batches decoded at once. sources: what pins the weights, for the manifest. `open` sets both. step and say: what
    is called with the number of tokens just committed, and with a line for the user.
    """

    role = "worker"
    shares_model = False  # whether its processes hold a part of one model each
    count = 1

    def __post_init__(self) -> None:
        self.sources: dict[str, Any] = {}
        self.listen(lambda committed: None, lambda line: None)

    def listen(self, step: Callable[[int], None], say: Callable[[str], None]) -> None:
        self.step, self.say = step, say

    def ranks(self, config: Config) -> list[Config]:
        """The configuration of each process that shares the model. Raises UsageError if the machine has too few devices."""
        return [config]

    def check(self, config: Config, prepared: PreparedModel) -> None:
        """Raises UsageError if the model cannot be decoded like this. Its weights are not loaded yet."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        """Load the weights. Raises UsageError as loading does."""
        raise NotImplementedError

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        """What became of the examples, in the order in which they are done."""
        raise NotImplementedError

    def close(self) -> None:
        """End what `open` began, also if it failed."""


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
    """A process, the connection to it, and the examples that it has in hand."""

    config: Config
    process: Any
    connection: Connection
    batch: list[Example] = field(default_factory=list)


def started(config: Config, serve: Callable[..., None], *more: Any) -> Worker:
    """A new process that calls serve(config, connection, *more)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_begin, args=(registry.folders(), theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end shows here
    with suppress(OSError):  # it died, which shows when it is listened to
        ours.send((serve, config, more))
    return Worker(config, process, ours)


def _begin(folders: list[str], connection: Connection) -> None:
    """A new process. What to do comes through the connection, for parts of the user's are found only from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the run's process decides when to stop
    registry.set_folders(folders)
    try:
        serve, config, more = connection.recv()
    except (EOFError, ConnectionError):  # the run's process is gone
        return
    serve(config, connection, *more)


def count_try(tries: dict[str, int], batch: list[Example], why: str) -> None:
    """Count a worker that was lost over a batch. Raises RunError if there were too many."""
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
