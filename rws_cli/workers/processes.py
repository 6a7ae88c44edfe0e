"""Decode in several processes on this machine, each with a copy of the model."""

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
from rws_cli.workers.base import Worker, Workers, assign_device, count_try, exit_cause, start_worker

MOST_WITHOUT_GPU = 4
"""The most processes on a machine without GPU, if the user does not set their number."""


@part
class Processes(Workers):
    """Processes that decode batches. One that dies is replaced, and its batch is decoded again."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        self.tries: dict[str, int] = {}
        self.workers = [start_worker(one, serve) for one in worker_configs(config)]
        self.count = len(self.workers)
        self.sources, *_ = [wait_until_loaded(worker) for worker in self.workers]

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting or any(worker.batch for worker in self.workers):
            for worker in self.workers:
                if waiting and not worker.batch:
                    worker.batch = waiting.popleft()
                    with suppress(OSError):  # it died, which shows when receiving from it
                        worker.connection.send(worker.batch)
            busy: dict[Any, int] = {worker.connection: n for n, worker in enumerate(self.workers) if worker.batch}
            for connection in wait(list(busy)):
                worker = self.workers[busy[connection]]
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    waiting.appendleft(worker.batch)
                    self.workers[busy[connection]] = self.replace(worker)
                    continue
                if kind == "failed":
                    raise value
                if kind == "notify":
                    self.notify(value)
                    continue
                worker.batch = value.remaining(worker.batch)
                self.step(sum(sample["committed"] for sample in value.samples))
                yield value

    def replace(self, worker: Worker) -> Worker:
        """A new worker for one that died. Raises RunError if too many died on its batch."""
        why = exit_cause(worker)
        count_try(self.tries, worker.batch, why)
        self.notify(f"a worker ended with {why}: a new one decodes its {len(worker.batch)} examples")
        fresh = start_worker(worker.config, serve)
        wait_until_loaded(fresh)
        return fresh

    def close(self) -> None:
        for worker in getattr(self, "workers", []):
            worker.process.kill()  # their current batches are no longer needed
            worker.process.join()
            worker.connection.close()


def worker_configs(config: Config) -> list[Config]:
    """A configuration per worker: one per GPU, or the number that the user set, distributed over the GPUs."""
    import torch

    gpus = torch.cuda.device_count()
    count = config.runtime.workers or gpus or min(MOST_WITHOUT_GPU, os.cpu_count() or 1)
    threads = max(1, (os.cpu_count() or 1) // count)
    return [assign_device(config, f"cuda:{n % gpus}" if gpus else "cpu", threads) for n in range(count)]


def wait_until_loaded(worker: Worker) -> dict[str, Any]:
    """Wait until a worker has loaded its models; returns its sources. Raises what loading raised, or RunError if it died."""
    try:
        kind, value = worker.connection.recv()
    except (EOFError, ConnectionError) as error:
        raise RunError(f"A worker ended while loading the model ({exit_cause(worker)}).") from error
    if kind == "failed":
        raise value
    return value


def serve(config: Config, connection: Connection) -> None:
    """A worker process: load, then decode batches until the connection closes. Sends pairs (kind, value)."""
    with suppress(EOFError, ConnectionError):  # the main process is gone
        try:
            prepared = prepare(config)
            components = load(config, prepared)
            decoder = BatchDecoder(config, prepared, components, notify=lambda line: connection.send(("notify", line)))
            connection.send(("ready", sources(config, prepared, components)))
            while True:
                for outcome in decoder(connection.recv()):
                    connection.send(("done", outcome))
        except (UsageError, RunError) as error:
            connection.send(("failed", error))
