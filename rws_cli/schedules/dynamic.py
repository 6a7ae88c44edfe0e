"""All tokens above a threshold if they fill the step's quota, else the best ones (SDAR, 2510.06303; LLaDA2.0, 2512.15745)"""

import math
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Dynamic(Schedule):
    """The quota of a step is floor(b / steps), and one more in the first (b mod steps) steps, where b is
    sampler.block_length even if the block has fewer masks. If at least that many tokens are above the threshold, the step
    commits all of these, else as many as the quota, by score."""

    threshold: float | None = setting(
        "τ: commit all tokens with a probability above it; null: always as many as the quota (SDAR's static rule)",
        0.9,
        above=0.0,
        max=1.0,
    )

    adaptive = True
    refills = True

    @property
    def in_step(self) -> bool:
        return self.threshold is None

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.block_length = sampler.block_length

    def count(self, step: Step) -> Tensor:
        return self.block_length // self.steps + (step.index_B < self.block_length % self.steps).long()

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        count_B = self.count(step)
        best_BG = best(ranking.score_BG, count_B)
        if self.threshold is None:
            return best_BG
        sure_BG = ranking.log_p_BG > math.log(self.threshold)
        return torch.where((sure_BG.sum(-1) >= count_B)[:, None], sure_BG, best_BG)

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)
