"""LLaDA's schedule with rounds that mask the least confident tokens again (ReMDM for LLaDA, 2503.00307)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Refine(Schedule):
    """The base schedule, until a share of the block is committed; then `rounds` steps that mask again the `remask` tokens
    with the lowest ψ, their probability when they were committed, and commit as many; then the rest of the base schedule."""

    share: float = setting(
        "share of a block that is committed before tokens are masked again", 0.875, above=0.0, max=1.0
    )
    rounds: int = setting("steps that mask tokens and commit as many", 32, min=0)
    remask: int = setting("tokens that each of them masks again", 1, min=1)

    remasks = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.remask > config.sampler.block_length * self.share:
            yield (
                f"sampler.schedule.remask={self.remask} is more than the share {self.share} of a block of "
                f"{config.sampler.block_length} that is committed by then."
            )

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.base, length = self.steps, sampler.block_length
        self.steps += self.rounds
        per_step, extra = divmod(length, self.base)
        committed = [n * per_step + min(n, extra) for n in range(self.base + 1)]
        self.first_round = next(n for n in range(self.base + 1) if committed[n] >= self.share * length)
        """The first step that remasks."""

    def refining(self, step: Step) -> Tensor:
        return (step.index_B >= self.first_round) & (step.index_B < self.first_round + self.rounds)

    def count(self, step: Step) -> Tensor:
        index_B = torch.where(step.index_B < self.first_round, step.index_B, step.index_B - self.rounds)
        count_B = step.started_B // self.base + (index_B < step.started_B % self.base)
        return torch.where(self.refining(step), self.remask, count_B)

    def remask_before(self, step: Step) -> Tensor | None:
        score_BG = (-step.commit_p_BG).masked_fill(~step.committed_BG, -torch.inf)
        return best(score_BG, torch.where(self.refining(step), self.remask, 0))
