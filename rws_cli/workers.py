"""Who decodes a run's batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.report.progress import Progress
from rws_cli.schema import Config
from rws_cli.task import Parts, Task, load, sources


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

    def __init__(self, config: Config, task: Task, parts: Parts) -> None:
        self.answerer = Answerer(config, task, parts)
        self.sources = sources(config, task, parts)

    def listen(self, progress: Progress) -> None:
        self.answerer.say, self.answerer.on_step = progress.say, progress.step

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        return map(self.answerer, batches)


@contextmanager
def open_workers(config: Config, task: Task) -> Iterator[Workers]:
    """The workers that the configuration asks for, with their weights. Raises UsageError as loading does."""
    yield Here(config, task, load(config, task))
