"""The base class of searches, and how particles are resampled."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli import registry
from rws_cli.decoding.noise import mix, uniform
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.record import LAST
from rws_cli.decoding.step import Step
from rws_cli.part import Part

RESAMPLE = 1 << 41
"""Added to random-number keys for resampling."""


class Search(Part):
    role = "search"
    particles = 1
    """Completions of one prompt that are decoded in parallel."""
    sweeps = 1
    """How often a prompt is decoded; from the second sweep on, the last completion is one of the particles."""
    waits: ClassVar[bool] = False
    """Whether the particles of a prompt wait for each other at the end of a block."""
    rolls_back: ClassVar[bool] = False
    """Whether it restores rows to an earlier state."""
    weighs_text: ClassVar[bool] = False
    """Whether it weighs committed tokens, which must then not be masked again or replaced."""

    differs: ClassVar[bool] = False
    """Whether its particles differ even where nothing is drawn."""

    def conflicts(self, config: Any) -> Iterator[str]:
        s = config.sampler
        if self.particles > 1 and not (s.draws or self.differs):
            yield (
                f"sampler.search.kind={self.kind} would decode {self.particles} equal particles: with "
                "sampler.temperature=0 nothing is drawn at random. Set sampler.temperature=1."
            )
        if self.weighs_text and (s.schedule.remasks or s.schedule.edits or s.remasking.remasks):
            others = {name: s for name, s in registry.available("search").items() if not s.facts.get("weighs_text")}
            able = [name for name, source in others.items() if "particles" in source.settings]
            yield (
                f"sampler.search.kind={self.kind} weighs committed tokens, and this sampler revises them: use "
                f"{' or '.join(able)}."
            )

    def begin(self, rows: dict[int, Callable[[list[int]], str]]) -> None:
        """Called when examples enter the batch: row → what extracts the answer from its completion's tokens, "" for none."""

    def block_ends(self, particle: int, gen_length: int) -> Sequence[int] | None:
        """Where the blocks of a particle end, if not where the sampler puts them; those of particle 0 are the shortest."""
        return None

    def due(self, step: Step) -> Tensor | None:
        """Rows (B,) that the step weighs, for which it needs the logits of all masked positions; None for no row."""
        return None

    def weigh(self, predicted: PositionLogits, step: Step, active_B: Tensor) -> Tensor | None:
        """Called before a step commits: each row's ancestor (B,), or None if nothing is resampled."""
        return None

    def committed(self, step: Step, log_p_B: Tensor) -> None:
        """Called after a step. log_p_B: the sum of log-probabilities of the tokens that each row committed."""

    def block_ended(self, step: Step, ended_B: Tensor, number_B: Tensor) -> Tensor:
        """Called at the end of a block if the search `waits`: each row's ancestor (B,). ended_B: rows whose block has ended.
        number_B: the number of the block's first step."""
        raise NotImplementedError

    def saves(self, step: Step) -> Tensor:
        """Rows (B,) to save after a step, if the search `rolls_back`; every row is also saved when it begins."""
        return torch.zeros_like(step.live_B)

    def rolled_back(self, step: Step) -> Tensor:
        """Rows (B,) to restore to their last saved state, except for step.memory under "search.…"."""
        raise NotImplementedError

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        """Of finished rows, `particles` adjacent ones for each prompt: the rows to return, and final scores by prompt."""
        return rows, [[] for _ in rows]

    def calls(self, steps: int) -> int:
        """The most reward calls that this number of steps makes."""
        return 0

    # --- shared by searches that resample -------------------------------------------------------------------------

    def log_w(self, step: Step) -> Tensor:
        """Log-weights (B,) since the last resampling."""
        return step.memory.get("search.log_w", 0.0)

    def resample(self, which_B: Tensor, step: Step, number_B: Tensor) -> Tensor:
        """Multinomial resampling of the particles of the prompts in which_B: each row's ancestor (B,)."""
        itself_B = torch.arange(len(which_B), device=which_B.device)
        drawn_B = itself_B // self.particles * self.particles + self.draw(self.particles, step, number_B).flatten()
        self.log_w(step).masked_fill_(which_B, 0.0)
        return torch.where(which_B & ~step.retained_B, drawn_B, itself_B)

    def draw(self, count: int, step: Step, number_B: Tensor | int) -> Tensor:
        """`count` particles of each prompt, drawn by weight: (prompts, count)."""
        cumulative = self.log_w(step).view(-1, self.particles).softmax(-1).cumsum(-1)
        key = mix(step.key_B.view(-1, self.particles)[:, 0] + RESAMPLE)
        number = number_B if isinstance(number_B, int) else number_B.view(-1, self.particles)[:, 0]
        u = uniform(key, number, torch.zeros_like(key), count)
        return torch.searchsorted(cumulative, u).clamp(max=self.particles - 1)

    def chosen(
        self,
        scores: list[float],
        step: Step,
        rows: list[int],
        ending: str = "best",
        compared: list[float] | None = None,
    ) -> tuple[list[int], list[list[float]]]:
        """For each prompt the row of the highest score, or one drawn by weight; and the scores by prompt. compared: values whose
        highest is chosen in place of the highest score."""
        k, firsts = self.particles, rows[:: self.particles]
        grouped, ordered = ([x[n : n + k] for n in range(0, len(rows), k)] for x in (scores, compared or scores))
        if ending == "draw":
            drawn = self.draw(1, step, LAST)[:, 0].tolist()
            return [first + drawn[first // k] for first in firsts], grouped
        return [first + max(range(k), key=few.__getitem__) for first, few in zip(firsts, ordered, strict=True)], grouped


def commit_alike(kind: str, config: Any) -> Iterator[str]:
    """A message if the particles of a prompt may commit different numbers of tokens, for searches that compare unfinished ones."""
    if not config.sampler.schedule.in_step:
        # Schedules whose settings decide are listed too.
        able = [name for name, source in registry.available("schedule").items() if source.facts.get("in_step", True)]
        yield (
            f"sampler.search.kind={kind} needs particles that commit alike: sampler.schedule.kind={' or '.join(able)}, "
            f"not {config.sampler.schedule.kind}."
        )
