"""Fixed rounds of positions at equal distances, ever closer; no probability is read (DUS, 2506.19037)"""

from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule


@part
class Dus(Schedule):
    """Round r of a block of b tokens, from 0, commits the masks whose place in the block, from 0, is a multiple of
    ⌊b / base^(skip + r)⌋; once that is at most 1, all of them. A last round that would commit fewer tokens than the one
    before it is part of that one."""

    base: int = setting("what the distance of positions is divided by from round to round", 2, min=2)
    skip: int = setting("the distance of the first round is a block's length divided by base^skip", 1, min=1)

    counted = False
    refills = True
    family = "orders"
    in_step = True

    def prepare(self, sampler: Any) -> None:
        self.steps = len(self.divisors(sampler.block_length))
        self.divisor_R = torch.tensor(self.divisors(sampler.gen_length))

    def divisors(self, length: int) -> list[int]:
        """What a block's length is divided by in each round, for blocks of at most `length` tokens."""
        powers = [self.base**self.skip]
        while length // powers[-1] > 1:
            powers.append(powers[-1] * self.base)
        return [min(power, length + 1) for power in powers]

    def candidates(self, step: Step) -> Tensor:
        self.divisor_R = self.divisor_R.to(step.index_B.device)
        divisor_B1 = self.divisor_R[step.index_B.clamp(max=len(self.divisor_R) - 1)][:, None]
        first_BG = torch.searchsorted(step.block_BG, step.block_BG)
        end_BG = torch.searchsorted(step.block_BG, step.block_BG, right=True).minimum(step.length_B[:, None])
        size_BG = (end_BG - first_BG).clamp(min=0)
        place_BG = torch.arange(size_BG.shape[1], device=size_BG.device) - first_BG
        due_BG = step.masked_BG & (place_BG % (size_BG // divisor_B1).clamp(min=1) == 0)
        rest_BG = step.masked_BG & ~due_BG
        is_last_B = ~(step.masked_BG & (size_BG // divisor_B1 // self.base > 1)).any(-1)
        joined_B = is_last_B & (rest_BG.sum(-1) < due_BG.sum(-1))
        return torch.where(joined_B[:, None], step.masked_BG, due_BG)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return ranking.open_BG

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)
