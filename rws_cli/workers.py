"""Who decodes a run's batches: this process, several on the devices of this machine, with a copy of the model each or one
among them (ranks.py), or a Ray cluster.

Examples are independent of each other, so it is all the same to the samples.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config import classifiers
from rws_cli.errors import RunError, UsageError
from rws_cli.report.progress import Progress
from rws_cli.schema import Config
from rws_cli.task import Task, load, prepare, sources

MOST_WITHOUT_GPU = 4
"""Processes where there is no GPU and the user names no number."""
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


class Here:
    """This process alone."""

    count = 1

    def __init__(self, answerer: Answerer, sources: dict[str, Any]) -> None:
        self.answerer, self.sources = answerer, sources

    def listen(self, progress: Progress) -> None:
        self.answerer.say = progress.say
        self.answerer.on_step = lambda committed, traces: progress.step(committed)

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        return map(self.answerer, batches)


def placed(config: Config, device: str, threads: int) -> Config:
    """The configuration of a worker: model and rewards on its device, unless the user placed them elsewhere."""
    config = deepcopy(config)
    for node in (config.model, *classifiers(config.reward).values()):
        if node.device == "auto":
            node.device = device
    config.runtime.threads = config.runtime.threads or threads
    return config


def share(config: Config) -> list[Config]:
    """A configuration for each worker on this machine: one for each GPU, or as many as the user says, in turn on them."""
    import torch

    gpus = torch.cuda.device_count()
    count = config.runtime.workers or gpus or min(MOST_WITHOUT_GPU, os.cpu_count() or 1)
    threads = max(1, (os.cpu_count() or 1) // count)
    return [placed(config, f"cuda:{n % gpus}" if gpus else "cpu", threads) for n in range(count)]


def ignore_signals() -> None:
    """In a worker: the run's process decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def serve(config: Config, connection: Connection) -> None:
    """A worker process: load, then answer what comes until nothing does. It sends pairs of a word and what goes with it."""
    ignore_signals()
    try:
        task = prepare(config)
        parts = load(config, task)
        answerer = Answerer(config, task, parts, say=lambda line: connection.send(("say", line)))
        connection.send(("ready", sources(config, task, parts)))
        while (batch := connection.recv()) is not None:
            connection.send(("done", answerer(batch)))
    except (UsageError, RunError) as error:
        connection.send(("failed", error))
    except (EOFError, BrokenPipeError):  # the run's process is gone
        pass


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


class Processes:
    """Several processes on this machine. One that dies is replaced, and its batch decoded again."""

    def __init__(self, config: Config) -> None:
        self.progress: Progress | None = None
        self.workers = [self.start(one) for one in share(config)]
        self.count = len(self.workers)
        self.tries: dict[str, int] = {}
        self.sources, *_ = [self.ready(worker) for worker in self.workers]

    def start(self, config: Config) -> Worker:
        return started(config, serve)

    def ready(self, worker: Worker) -> dict[str, Any]:
        """Wait until it has loaded. Raises what loading raised, and RunError if it died."""
        try:
            word, value = worker.connection.recv()
        except EOFError as error:
            raise RunError(f"A worker ended while it loaded the model ({cause(worker)}).") from error
        if word == "failed":
            raise value
        return value

    def listen(self, progress: Progress) -> None:
        self.progress = progress

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting or any(worker.batch for worker in self.workers):
            for worker in self.workers:
                if worker.batch is None and waiting:
                    worker.batch = waiting.popleft()
                    with suppress(OSError):  # it is gone, which shows when its answer is read
                        worker.connection.send(worker.batch)
            busy = {worker.connection: n for n, worker in enumerate(self.workers) if worker.batch}
            for connection in wait(list(busy)):
                number = busy[connection]  # type: ignore[index]
                worker = self.workers[number]
                assert worker.batch
                try:
                    word, value = worker.connection.recv()
                except (EOFError, OSError):
                    waiting.appendleft(worker.batch)
                    self.workers[number] = self.replaced(worker)
                    continue
                if word == "failed":
                    raise value
                if word == "say":
                    self.say(value)
                    continue
                worker.batch = None
                if self.progress:
                    self.progress.step(sum(sample["committed"] for sample in value.samples))
                yield value

    def replaced(self, worker: Worker) -> Worker:
        """A new one for one that died. Raises RunError if the same batch has taken too many with it."""
        assert worker.batch
        why = cause(worker)
        count_try(self.tries, worker.batch, why)
        self.say(f"a worker ended by {why}: another takes its {len(worker.batch)} examples")
        fresh = self.start(worker.config)
        self.ready(fresh)
        return fresh

    def say(self, line: str) -> None:
        if self.progress:
            self.progress.say(line)

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()  # what they have in hand is not wanted any more
            worker.process.join()


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


@contextmanager
def open_workers(config: Config, task: Task) -> Iterator[Workers]:
    """The workers that the configuration asks for, with their weights loaded. Raises UsageError as loading does."""
    if config.runtime.backend == "here":
        parts = load(config, task)
        yield Here(Answerer(config, task, parts), sources(config, task, parts))
    elif config.runtime.backend == "ray":
        from rws_cli.ray_workers import open_cluster

        with open_cluster(config) as cluster:
            yield cluster
    else:
        from rws_cli.ranks import Ranks

        group = Ranks(config) if config.runtime.backend == "tensor_parallel" else Processes(config)
        try:
            yield group
        finally:
            group.close()
