"""Several processes on the devices of this machine, each with a copy of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.runs.progress import Progress
from rws_cli.task import load, prepare, sources
from rws_cli.workers.base import Worker, cause, count_try, ignore_signals, placed, started

MOST_WITHOUT_GPU = 4
"""Processes where there is no GPU and the user names no number."""


def share(config: Config) -> list[Config]:
    """A configuration for each worker on this machine: one for each GPU, or as many as the user says, in turn on them."""
    import torch

    gpus = torch.cuda.device_count()
    count = config.runtime.workers or gpus or min(MOST_WITHOUT_GPU, os.cpu_count() or 1)
    threads = max(1, (os.cpu_count() or 1) // count)
    return [placed(config, f"cuda:{n % gpus}" if gpus else "cpu", threads) for n in range(count)]


def serve(config: Config, connection: Connection) -> None:
    """A worker process: load, then answer what comes until nothing does. It sends pairs of a word and what goes with it."""
    ignore_signals()
    with suppress(EOFError, ConnectionError):  # the run's process is gone
        try:
            task = prepare(config)
            parts = load(config, task)
            answerer = Answerer(config, task, parts, say=lambda line: connection.send(("say", line)))
            connection.send(("ready", sources(config, task, parts)))
            while (batch := connection.recv()) is not None:
                connection.send(("done", sum(answerer(batch), Outcome())))
        except (UsageError, RunError) as error:
            connection.send(("failed", error))


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
        except (EOFError, ConnectionError) as error:
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
