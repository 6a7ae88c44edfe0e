"""Completions with blocks of different lengths, which vote on the answer (HEX, 2510.05040)"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search


@part
class Hex(Search):
    """With N particles, the first one is decoded in 2^N equal blocks, each further one in half as many. The answer that the
    benchmark extracts most often is returned, in the first completion that has it; completions without one do not vote."""

    particles: int = setting(
        "completions of one prompt; the first has 2^particles blocks, each further one half as many", 5, min=1, max=16
    )

    needs = ("answers",)
    caches = ()
    differs = True

    def conflicts(self, config: Any) -> Iterator[str]:
        yield from super().conflicts(config)
        s, named = config.sampler, f"sampler.search.kind={self.kind}"
        if config.model.topology.block_size is not None:
            yield f"{named} needs a model whose tokens attend to all others, not model.kind={config.model.kind}."
        if s.block_length != s.gen_length:
            yield f"{named} decides block lengths itself: set sampler.block_length={s.gen_length}."
        if s.steps is not None:
            yield f"{named} needs the same tokens per step in blocks of any length: set sampler.tokens_per_step, not sampler.steps."
        if 2**self.particles > s.gen_length:
            yield (
                f"sampler.search.particles={self.particles} would divide sampler.gen_length={s.gen_length} into "
                f"{2**self.particles} blocks: it must be at most {s.gen_length.bit_length() - 1}."
            )

    def begin(self, rows: dict[int, Callable[[list[int]], str]]) -> None:
        self.extract = getattr(self, "extract", {}) | rows

    def block_ends(self, particle: int, gen_length: int) -> list[int]:
        count = 2 ** (self.particles - particle)
        return [-(-gen_length * n // count) for n in range(1, count + 1)]

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        lengths, completions = step.length_B.tolist(), step.tokens_BG.tolist()
        votes: list[float] = []
        for first in range(0, len(rows), self.particles):
            some = rows[first : first + self.particles]
            answers = [self.extract[row](completions[row][: lengths[row]]) for row in some]
            counts = Counter(answer for answer in answers if answer)
            votes += [float(counts[answer]) for answer in answers]
        return self.chosen(votes, step, rows)
