"""This process alone."""

from collections.abc import Iterable, Iterator

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.part import part
from rws_cli.runs.answering import Answerer, Outcome
from rws_cli.runs.task import Task, load, sources
from rws_cli.workers.base import Workers


@part
class Here(Workers):
    """Decodes in the run's own process."""

    def open(self, config: Config, task: Task) -> None:
        parts = load(config, task)
        self.sources = sources(config, task, parts)
        self.answerer = Answerer(config, task, parts)

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        self.answerer.say = self.say
        self.answerer.on_step = lambda committed, traces: self.step(committed)
        for batch in batches:
            yield from self.answerer(batch)
