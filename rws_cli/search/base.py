"""What every search answers, and how particles are resampled."""

from collections.abc import Iterator
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
"""What is added to keys for random numbers of resampling."""


class Search(Part):
    role = "search"
    particles = 1
    """Answers to one prompt that are decoded side by side."""
    sweeps = 1
    """How often a prompt is decoded; from the second time on the last answer is among the particles."""
    waits: ClassVar[bool] = False
    """Whether the particles of a prompt begin a block together."""
    rolls_back: ClassVar[bool] = False
    """Whether it sets rows back to where they stood."""
    weighs_text: ClassVar[bool] = False
    """Whether it weighs what stands, which must then not be masked again."""

    def conflicts(self, config: Any) -> Iterator[str]:
        s = config.sampler
        if self.particles > 1 and not s.draws:
            yield (
                f"sampler.search.kind={self.kind} would decode {self.particles} equal particles: with "
                "sampler.temperature=0 nothing is drawn at random. Set sampler.temperature=1."
            )
        if self.weighs_text and (s.schedule.remasks or s.remasking.remasks):
            others = {name: s for name, s in registry.available("search").items() if not s.facts.get("weighs_text")}
            able = [name for name, source in others.items() if "particles" in source.settings]
            yield (
                f"sampler.search.kind={self.kind} weighs what stands, and this sampler masks tokens again: use "
                f"{' or '.join(able)}."
            )

    def due(self, step: Step) -> Tensor | None:
        """Rows (B,) that a step weighs, for which it reads all masked positions; None: none."""
        return None

    def weigh(self, predicted: PositionLogits, step: Step, active_B: Tensor) -> Tensor | None:
        """Before a step commits: each row's ancestor (B,), None where nothing is resampled."""
        return None

    def committed(self, step: Step, log_p_B: Tensor) -> None:
        """After a step: log_p_B, the sum of log-probabilities of what each row committed."""

    def block_ended(self, step: Step, ended_B: Tensor, number_B: Tensor) -> Tensor:
        """Before the next block, in rows whose block has ended, if the search `waits`: each row's ancestor (B,).
        number_B: of the first step of the block."""
        raise NotImplementedError

    def saves(self, step: Step) -> Tensor:
        """Rows (B,) to save as they stand after a step, if the search `rolls_back`; each is saved when it begins."""
        return torch.zeros_like(step.live_B)

    def rolled_back(self, step: Step) -> Tensor:
        """Rows (B,) that go on from where they were last saved, with all but what step.memory has under "search.…"."""
        raise NotImplementedError

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        """Of the finished rows, `particles` neighbors for each prompt, those to return, and a final score of each row."""
        return rows, [[] for _ in rows]

    def calls(self, steps: int) -> int:
        """Reward calls in so many steps, at most."""
        return 0

    # --- shared by those that resample ----------------------------------------------------------------------------

    def log_w(self, step: Step) -> Tensor:
        """Log-weights (B,) since the last resampling."""
        return step.memory.get("search.log_w", 0.0)

    def resample(self, which_B: Tensor, step: Step, number_B: Tensor) -> Tensor:
        """Multinomial resampling of some prompts' particles: each row's ancestor (B,)."""
        itself_B = torch.arange(len(which_B), device=which_B.device)
        drawn_B = itself_B // self.particles * self.particles + self.draw(self.particles, step, number_B).flatten()
        self.log_w(step).masked_fill_(which_B, 0.0)
        return torch.where(which_B & ~step.retained_B, drawn_B, itself_B)

    def draw(self, count: int, step: Step, number_B: Tensor | int) -> Tensor:
        """`count` particles (prompts, count) of each prompt, by weight."""
        cumulative = self.log_w(step).view(-1, self.particles).softmax(-1).cumsum(-1)
        key = mix(step.key_B.view(-1, self.particles)[:, 0] + RESAMPLE)
        number = number_B if isinstance(number_B, int) else number_B.view(-1, self.particles)[:, 0]
        u = uniform(key, number, torch.zeros_like(key), count)
        return torch.searchsorted(cumulative, u).clamp(max=self.particles - 1)

    def chosen(
        self, scores: list[float], step: Step, rows: list[int], ending: str = "best"
    ) -> tuple[list[int], list[list[float]]]:
        """Of each prompt's rows the one of highest score, or one drawn by weight; and the scores by prompt."""
        k, firsts = self.particles, rows[:: self.particles]
        grouped = [scores[n : n + k] for n in range(0, len(rows), k)]
        if ending == "draw":
            drawn = self.draw(1, step, LAST)[:, 0].tolist()
            return [first + drawn[first // k] for first in firsts], grouped
        return [first + max(range(k), key=few.__getitem__) for first, few in zip(firsts, grouped, strict=True)], grouped
