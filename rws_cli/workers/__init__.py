"""Who decodes a run's batches: this process (here), several on the devices of this machine with a copy of the model each
(processes.py) or one among them (ranks.py), or a Ray cluster (cluster.py).

Examples are independent of each other, so it is all the same to the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.runs.progress import Progress
from rws_cli.task import Task, load, sources
from rws_cli.workers.base import Workers


class Here:
    """This process alone."""

    count = 1

    def __init__(self, answerer: Answerer, sources: dict[str, Any]) -> None:
        self.answerer, self.sources = answerer, sources

    def listen(self, progress: Progress) -> None:
        self.answerer.say = progress.say
        self.answerer.on_step = lambda committed, traces: progress.step(committed)

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        for batch in batches:
            yield from self.answerer(batch)


@contextmanager
def open_workers(config: Config, task: Task) -> Iterator[Workers]:
    """The workers that the configuration asks for, with their weights loaded. Raises UsageError as loading does."""
    if config.runtime.backend == "here":
        parts = load(config, task)
        yield Here(Answerer(config, task, parts), sources(config, task, parts))
    elif config.runtime.backend == "ray":
        from rws_cli.workers.cluster import open_cluster

        with open_cluster(config) as cluster:
            yield cluster
    else:
        from rws_cli.workers.processes import Processes
        from rws_cli.workers.ranks import Ranks

        group = Ranks(config) if config.runtime.backend == "tensor_parallel" else Processes(config)
        try:
            yield group
        finally:
            group.close()
