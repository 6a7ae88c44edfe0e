"""A lower threshold where confidence is steady and above its neighbors' (our reading of STDD, 2601.04205)

Only the paper's idea was available: a threshold for each token and step that follows from how much its confidence varied
over the last steps and from its difference to that of neighbors. The rule that combines the two, and all numbers, are ours.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Stdd(Adaptive):
    """Commits every token whose probability c is at least its threshold, and the best one. The variance is that of a mask's
    last `window` values of c in this block, undefined for one value; the difference is c minus the mean c of the block's
    positions at most `neighbors` away, where a committed token has the c that it was committed at. The threshold is `low` if
    the variance is among the ⌈quantile·n⌉ lowest of the n that are defined, ties included, and the difference is not
    negative; else `high`. With smooth, it is high − (high − low)·exp(−variance / variance_scale)·σ(difference /
    difference_scale), or `high` without a variance."""

    low: float = setting("threshold of a steady token that is above its neighbors", 0.7, above=0.0, max=1.0)
    high: float = setting("threshold of the others", 0.9, above=0.0, max=1.0)
    window: int = setting("steps over which the variance is taken", 3, min=1)
    neighbors: int = setting("how many positions away a neighbor may be", 2, min=1)
    quantile: float = setting("share of a block's masks that count as steady", 0.5, min=0.0, max=1.0)
    smooth: bool = setting("thresholds between low and high, in place of one of the two", False)
    variance_scale: float = setting("variance at which the effect falls to 1/e (smooth)", 0.001, above=0.0)
    difference_scale: float = setting("difference that the logistic function divides by (smooth)", 0.05, above=0.0)

    refills = True
    reads_unscaled = True

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.low > self.high:
            yield f"sampler.schedule.low={self.low} is above sampler.schedule.high={self.high}: exchange them."

    def history(self, step: Step) -> tuple[Tensor, Tensor]:
        """The last confidences of each position, the newest last, (B, G, window), NaN where there is none; and how many steps
        each mask has been open in this block, (B, G)."""
        length = step.masked_BG.shape[1]
        return (
            step.memory.get("confidences", math.nan, length, self.window),
            step.memory.get("open_steps", 0, length, dtype=torch.int64),
        )

    def update(self, ranking: Ranking, step: Step) -> None:
        """A committed token keeps the confidences up to its commit; a mask's count starts again with each block."""
        c_BGW, count_BG = self.history(step)
        assert ranking.unscaled_BG is not None
        newer_BGW = torch.cat([c_BGW[..., 1:], ranking.unscaled_BG.exp()[..., None]], -1)
        c_BGW.copy_(torch.where(ranking.open_BG[..., None], newer_BGW, c_BGW))
        count_BG.masked_fill_((step.index_B == 0)[:, None], 0)
        count_BG += ranking.open_BG

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return (ranking.log_p_BG >= self.log_threshold(ranking.open_BG, step)) | one(ranking.score_BG)

    def log_threshold(self, open_BG: Tensor, step: Step) -> Tensor:
        c_BGW, count_BG = self.history(step)
        defined_BG = open_BG & (count_BG.clamp(max=self.window) >= 2)
        variance_BG = self.variance(c_BGW, count_BG).where(defined_BG, math.inf)
        difference_BG = self.difference(c_BGW[..., -1], step.masked_BG | step.committed_BG)
        if self.smooth:
            steadiness_BG = (-variance_BG / self.variance_scale).exp()
            height_BG = (difference_BG / self.difference_scale).sigmoid()
            return (self.high - (self.high - self.low) * steadiness_BG * height_BG).log()
        rank_B = (defined_BG.sum(-1).double() * self.quantile).ceil().long().clamp(min=1)
        most_B1 = variance_BG.sort(-1).values.gather(-1, rank_B[:, None] - 1)
        stable_BG = defined_BG & (variance_BG <= most_B1) & (difference_BG >= 0)
        high = torch.full_like(variance_BG, math.log(self.high))
        return high.masked_fill(stable_BG, math.log(self.low))

    def variance(self, c_BGW: Tensor, count_BG: Tensor) -> Tensor:
        """The population variance of each position's confidences in this block, (B, G)."""
        number_BG1 = count_BG.clamp(1, self.window)[..., None]
        age_W = torch.arange(self.window - 1, -1, -1, device=c_BGW.device)
        is_of_block_BGW = age_W < number_BG1
        mean_BG1 = c_BGW.where(is_of_block_BGW, 0.0).sum(-1, keepdim=True) / number_BG1
        return (c_BGW - mean_BG1).square().where(is_of_block_BGW, 0.0).sum(-1) / number_BG1[..., 0]

    def difference(self, c_BG: Tensor, inside_BG: Tensor) -> Tensor:
        """Each position's confidence minus the mean of its neighbors', (B, G); 0 without neighbors."""
        has_c_BG = inside_BG & ~c_BG.isnan()
        c_BG = c_BG.where(has_c_BG, 0.0)
        sum_BG, count_BG = (self.over_neighbors(x_BG) for x_BG in (c_BG, has_c_BG.double()))
        return (c_BG - sum_BG / count_BG.clamp(min=1)).where(count_BG > 0, 0.0)

    def over_neighbors(self, x_BG: Tensor) -> Tensor:
        """The sum of the values of each position's neighbors, without its own."""
        reach = self.neighbors
        around_BGR = torch.nn.functional.pad(x_BG, (reach, reach)).unfold(1, 2 * reach + 1, 1)
        return around_BGR[..., :reach].sum(-1) + around_BGR[..., reach + 1 :].sum(-1)
