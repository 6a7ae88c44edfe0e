"""Steps over the whole block find a span, then steps in it commit all that is confident (SlowFast, 2506.10848)"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@dataclass(frozen=True)
class Cycle:
    """Where each row is in its cycle: the first position of the span and the one after its last, and the steps that the cycle
    has had; (B,) each."""

    start_B: Tensor
    end_B: Tensor
    steps_B: Tensor


@part
class SlowFast(Adaptive):
    """Each step commits every open token with probability ≥ threshold if there are two or more, else the best one. A block is
    decoded in cycles. In the `explore` slow steps of a cycle, all masks of the block are open. Each estimates the end of a
    span: behind its last mask with probability ≥ span_threshold, or one position behind the last span. The estimate counts
    once the deviation of the last `window` ones is below `deviation`; if that never happens, the span ends at their mean,
    rounded down. Then fast steps, in which only the masks before the end are open, until there are none."""

    threshold: float = setting("lowest probability at which tokens are committed together", 0.9, above=0.0, max=1.0)
    explore: int = setting("slow steps of a cycle", 6, min=1)
    span_threshold: float = setting("lowest probability of the last token of a span", 0.3, above=0.0, max=1.0)
    window: int = setting("estimates of the end of a span that are compared", 2, min=1)
    deviation: float = setting("standard deviation below which they are stable, in positions", 1.0, above=0.0)

    refills = True

    def cycle(self, step: Step) -> Cycle:
        """The cycles before the step. The last span is full when the next cycle begins at its end."""
        start_B, end_B, steps_B = (
            step.memory.get(name, 0, dtype=torch.int64) for name in ("span_start", "span_end", "cycle_steps")
        )
        position_G = torch.arange(step.masked_BG.shape[1], device=end_B.device)
        is_full_B = ~(step.masked_BG & (position_G < end_B[:, None])).any(-1)
        is_over_B, begins_B = (steps_B >= self.explore) & is_full_B, step.index_B == 0
        first_B = (step.masked_BG | step.committed_BG).to(torch.int8).argmax(-1)
        start_B = torch.where(begins_B, first_B, torch.where(is_over_B, end_B, start_B))
        return Cycle(start_B, end_B, steps_B.masked_fill(begins_B | is_over_B, 0))

    def candidates(self, step: Step) -> Tensor:
        cycle = self.cycle(step)
        position_G = torch.arange(step.masked_BG.shape[1], device=cycle.end_B.device)
        return step.masked_BG & ((cycle.steps_B < self.explore)[:, None] | (position_G < cycle.end_B[:, None]))

    def update(self, ranking: Ranking, step: Step) -> None:
        cycle, position_G = self.cycle(step), torch.arange(step.masked_BG.shape[1], device=step.index_B.device)
        ends_BW = step.memory.get("span_ends", 0.0, self.window)
        is_stable_B = step.memory.get("span_is_stable", 0, dtype=torch.int64)
        is_stable_B.masked_fill_(cycle.steps_B == 0, 0)
        sure_BG = ranking.open_BG & (ranking.log_p_BG >= math.log(self.span_threshold))
        end_B = torch.where(sure_BG.any(-1), (sure_BG * (position_G + 1)).amax(-1), cycle.start_B + 1)
        is_slow_B = cycle.steps_B < self.explore
        newer_BW = torch.cat([ends_BW[:, 1:], end_B[:, None].double()], -1)
        ends_BW.copy_(torch.where(is_slow_B[:, None], newer_BW, ends_BW))
        steps_B, number_B = cycle.steps_B + is_slow_B, (cycle.steps_B + 1).clamp(max=self.window)
        mean_B, deviation_B = statistics(ends_BW, number_B)
        stable_B = is_slow_B & (number_B == self.window) & (deviation_B < self.deviation)
        span_end_B = torch.where(stable_B, end_B, mean_B.floor().long())
        span_end_B = torch.where(is_slow_B & (is_stable_B == 0), span_end_B, cycle.end_B)
        is_stable_B.copy_(is_stable_B | stable_B)
        for name, value_B in (("span_start", cycle.start_B), ("span_end", span_end_B), ("cycle_steps", steps_B)):
            step.memory.get(name, 0, dtype=torch.int64).copy_(value_B)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        sure_BG = ranking.open_BG & (ranking.log_p_BG >= math.log(self.threshold))
        return torch.where(sure_BG.sum(-1, keepdim=True) >= 2, sure_BG, one(ranking.score_BG))


def statistics(value_BW: Tensor, number_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the last number_B values of each row, (B,) each."""
    window = value_BW.shape[1]
    is_counted_BW = torch.arange(window - 1, -1, -1, device=value_BW.device) < number_B[:, None]
    mean_B = value_BW.where(is_counted_BW, 0.0).sum(-1) / number_B
    square_BW = (value_BW - mean_B[:, None]).square().where(is_counted_BW, 0.0)
    return mean_B, (square_BW.sum(-1) / number_B).sqrt()
