"""This process alone."""

from collections.abc import Iterable, Iterator

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.part import part
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.runs.prepared import PreparedRun, load, sources
from rws_cli.workers.base import Workers


@part
class Local(Workers):
    """Decodes in the run's own process."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        components = load(config, prepared)
        self.sources = sources(config, prepared, components)
        self.decoder = BatchDecoder(config, prepared, components)

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        self.decoder.say = self.say
        self.decoder.on_step = lambda committed, traces: self.step(committed)
        for batch in batches:
            yield from self.decoder(batch)
