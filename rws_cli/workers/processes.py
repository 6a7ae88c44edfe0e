"""Several processes on the devices of this machine, each with a copy of the model."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.part import part
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.runs.prepared import PreparedRun, load, prepare, sources
from rws_cli.workers.base import Worker, Workers, cause, count_try, placed, started

MOST_WITHOUT_GPU = 4
"""Processes where there is no GPU and the user names no number."""


@part
class Processes(Workers):
    """Processes that are given batches. One that dies is replaced, and what it had in hand is decoded again."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        self.tries: dict[str, int] = {}
        self.workers = [started(one, serve) for one in share(config)]
        self.count = len(self.workers)
        self.sources, *_ = [ready(worker) for worker in self.workers]

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting or any(worker.batch for worker in self.workers):
            for worker in self.workers:
                if waiting and not worker.batch:
                    worker.batch = waiting.popleft()
                    with suppress(OSError):  # it died, which shows when its answer is read
                        worker.connection.send(worker.batch)
            busy: dict[Any, int] = {worker.connection: n for n, worker in enumerate(self.workers) if worker.batch}
            for connection in wait(list(busy)):
                worker = self.workers[busy[connection]]
                try:
                    word, value = worker.connection.recv()
                except (EOFError, OSError):
                    waiting.appendleft(worker.batch)
                    self.workers[busy[connection]] = self.replaced(worker)
                    continue
                if word == "failed":
                    raise value
                if word == "say":
                    self.say(value)
                    continue
                worker.batch = value.rest(worker.batch)
                self.step(sum(sample["committed"] for sample in value.samples))
                yield value

    def replaced(self, worker: Worker) -> Worker:
        """A new worker for one that died. Raises RunError if its batch has taken too many with it."""
        why = cause(worker)
        count_try(self.tries, worker.batch, why)
        self.say(f"a worker ended by {why}: another takes its {len(worker.batch)} examples")
        fresh = started(worker.config, serve)
        ready(fresh)
        return fresh

    def close(self) -> None:
        for worker in getattr(self, "workers", []):
            worker.process.kill()  # what they have in hand is not wanted any more
            worker.process.join()
            worker.connection.close()


def share(config: Config) -> list[Config]:
    """A configuration for each worker on this machine: one for each GPU, or as many as the user says, in turn on them."""
    import torch

    gpus = torch.cuda.device_count()
    count = config.runtime.workers or gpus or min(MOST_WITHOUT_GPU, os.cpu_count() or 1)
    threads = max(1, (os.cpu_count() or 1) // count)
    return [placed(config, f"cuda:{n % gpus}" if gpus else "cpu", threads) for n in range(count)]


def ready(worker: Worker) -> dict[str, Any]:
    """Wait until a worker has loaded; returns its sources. Raises what loading raised, and RunError if it died."""
    try:
        word, value = worker.connection.recv()
    except (EOFError, ConnectionError) as error:
        raise RunError(f"A worker ended while it loaded the model ({cause(worker)}).") from error
    if word == "failed":
        raise value
    return value


def serve(config: Config, connection: Connection) -> None:
    """A worker process: load, then answer batches until there are no more. It sends pairs of a word and a value."""
    with suppress(EOFError, ConnectionError):  # the run's process is gone
        try:
            prepared = prepare(config)
            components = load(config, prepared)
            decoder = BatchDecoder(config, prepared, components, say=lambda line: connection.send(("say", line)))
            connection.send(("ready", sources(config, prepared, components)))
            while True:
                for outcome in decoder(connection.recv()):
                    connection.send(("done", outcome))
        except (UsageError, RunError) as error:
            connection.send(("failed", error))
