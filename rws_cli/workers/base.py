"""The base class of worker backends, and worker processes."""

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
"""The number of workers lost over the same batch at which the run gives up."""


class Workers(Part):
    """A backend that decodes the batches of a run.

    count: batches decoded at the same time. sources: what identifies the weights, for the manifest. `open` sets both.
    step: called with the number of tokens just committed; notify: called with a line for the user.
    """

    role = "worker"
    shares_model = False  # whether its processes each hold a part of one model
    count = 1

    def __post_init__(self) -> None:
        self.sources: dict[str, Any] = {}
        self.listen(lambda committed: None, lambda line: None)

    def listen(self, step: Callable[[int], None], notify: Callable[[str], None]) -> None:
        """Set the callbacks."""
        self.step, self.notify = step, notify

    def ranks(self, config: Config) -> list[Config]:
        """A configuration per process that shares the model. Raises UsageError if the machine has too few devices."""
        return [config]

    def check(self, config: Config, prepared: PreparedModel) -> None:
        """Raises UsageError if this backend cannot decode the model. Called before weights are loaded."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        """Load the weights. Raises UsageError as loading does."""
        raise NotImplementedError

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        """Yield the outcomes of batches as they finish."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop everything that `open` started, also if it failed."""


def assign_device(config: Config, device: str, threads: int) -> Config:
    """A worker's configuration, with model and rewards on its device unless the user chose devices."""
    config = deepcopy(config)
    for node in (config.model, *checkpoints(config.reward, "reward").values()):
        if node.device == "auto":
            node.device = device
    config.runtime.threads = config.runtime.threads or threads
    return config


@dataclass
class Worker:
    """A process, the connection to it, and the batch that it is decoding."""

    config: Config
    process: Any
    connection: Connection
    batch: list[Example] = field(default_factory=list)


def start_worker(config: Config, serve: Callable[..., None], *more: Any) -> Worker:
    """Start a process that calls serve(config, connection, *more)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(registry.folders(), theirs), daemon=True)
    process.start()
    theirs.close()  # so that receiving fails once the process ends
    with suppress(OSError):  # it died, which shows when receiving from it
        ours.send((serve, config, more))
    return Worker(config, process, ours)


def _main(folders: list[str], connection: Connection) -> None:
    """Run a new process. Its task comes through the connection, once the user's parts can be imported."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the main process decides when to stop
    registry.set_folders(folders)
    try:
        serve, config, more = connection.recv()
    except (EOFError, ConnectionError):  # the main process is gone
        return
    serve(config, connection, *more)


def count_try(tries: dict[str, int], batch: list[Example], why: str) -> None:
    """Count a worker lost over a batch. Raises RunError if there have been too many."""
    first = batch[0].id
    tries[first] = tries.get(first, 0) + 1
    if tries[first] == TRIES:
        raise RunError(
            f"{TRIES} workers ended unexpectedly on the batch that starts with example {first}, the last with {why}. If memory "
            "ran out, set a smaller runtime.batch_size or fewer runtime.workers."
        )


def exit_cause(worker: Worker) -> str:
    """The signal or exit code with which a process ended."""
    worker.process.join(10)
    code = worker.process.exitcode
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
