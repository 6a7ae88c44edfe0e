"""Dream's schedule: from time t to s, a share 1 − s/t of the masked tokens; t falls from 1 to ε"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import RANDOM
from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule


@part
class Dream(Schedule):
    """A step commits int(m(1 − s/t)) of the row's m masked positions by score, and the last step all of them. With origin,
    each position is committed with probability 1 − s/t instead. Steps that would commit nothing make no pass."""

    eps: float = setting("ε, the time at which decoding ends; it starts at 1", 0.001, above=0.0, max=0.5)
    origin: bool = setting("commit each position with this probability, in place of the highest scores", False)

    family = "orders"

    @property
    def draws(self) -> bool:
        return self.origin

    @property
    def in_step(self) -> bool:
        return not self.origin

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        times = torch.linspace(1, self.eps, self.steps + 1, dtype=torch.float64).tolist()
        shares = [1 - s / t for t, s in pairwise(times)]
        self.shares = torch.tensor([*shares[:-1], 1.0], dtype=torch.float64)

    def share(self, step: Step) -> Tensor:
        """The share of masked positions that each row commits, (B,)."""
        self.shares = self.shares.to(step.index_B.device)
        return self.shares[step.index_B.clamp(max=self.steps - 1)]

    def count(self, step: Step) -> Tensor:
        return (step.masked_BG.sum(-1) * self.share(step)).long()

    def candidates(self, step: Step) -> Tensor:
        if self.origin:
            return step.masked_BG & (step.chance(RANDOM) < self.share(step)[:, None])
        return super().candidates(step)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return ranking.open_BG if self.origin else super().choose(ranking, step)
