"""Each step of a block commits more tokens than the one before, by score"""

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, best


@part
class Growing(Adaptive):
    """The first step of a block commits one token. The row's memory keeps how many the last step committed."""

    more: int = setting("additional tokens that each step commits", 1, min=0)

    def last(self, step: Step) -> Tensor:
        """The number of tokens that each row's last step should commit, (B,)."""
        return step.memory.get("growing.last", 0, dtype=torch.int64)

    def update(self, ranking: Ranking, step: Step) -> None:
        last_B = self.last(step)
        last_B.copy_(torch.where(step.index_B == 0, 1, last_B + self.more))

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return best(ranking.score_BG, self.last(step))
