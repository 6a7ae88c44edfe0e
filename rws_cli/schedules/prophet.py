"""LLaDA's schedule until the two best tokens are far enough apart, then everything at once (Prophet, 2508.19982)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule


@part
class Prophet(Schedule):
    """LLaDA's schedule, until the mean gap between the two highest logits of the answer region, masked or not, reaches a
    threshold that falls with progress through the steps of all blocks. Then every mask of the completion is committed."""

    early: float = setting(
        "mean gap of the two highest logits that ends decoding in the first third of steps", 7.5, min=0.0
    )
    middle: float = setting("the same in the second third", 5.0, min=0.0)
    late: float = setting("the same in the last third", 2.5, min=0.0)
    answer_start: int = setting("first position of the region whose gaps are averaged", 0, min=0)
    answer_length: int | None = setting("its length in tokens; null: to the end", None, min=1)

    adaptive = True
    needs_all_log_probs = True

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.answer_start >= config.sampler.gen_length:
            yield (
                f"sampler.schedule.answer_start={self.answer_start} is beyond the completion of "
                f"sampler.gen_length={config.sampler.gen_length} tokens: set a smaller one."
            )

    @property
    def reads_from(self) -> int:
        return self.answer_start

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.all_steps = sampler.blocks * self.steps

    def region(self, like_BG: Tensor) -> Tensor:
        """The answer region as a mask (B, G)."""
        region_BG = torch.zeros_like(like_BG)
        end = None if self.answer_length is None else self.answer_start + self.answer_length
        region_BG[:, self.answer_start : end] = True
        return region_BG

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return (step.all_masked_BG | self.region(open_BG) & step.free_BG) & open_BG.any(-1, keepdim=True)

    def features(self, log_p_nV: Tensor) -> Tensor:
        """The gap between the two likeliest tokens' logits."""
        top_n2 = log_p_nV.topk(2, dim=-1).values
        return top_n2[:, 0] - top_n2[:, 1]

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        progress_B = (step.number_B + 1).double() / self.all_steps
        needed_B = torch.where(progress_B < 0.33, self.early, torch.where(progress_B < 0.67, self.middle, self.late))
        region_BG = self.region(ranking.ranked_BG) & ranking.ranked_BG
        mean_B = (ranking.spread(ranking.features_N, 0.0) * region_BG).sum(-1) / region_BG.sum(-1).clamp(min=1)
        everything_BG = step.all_masked_BG & ranking.ranked_BG
        return torch.where((mean_B >= needed_B)[:, None], everything_BG, super().choose(ranking, step))
