"""Every mask is filled at every step, and the least confident tokens are masked again (RCR, 2508.13148)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Rcr(Schedule):
    """Running confidence remasking. Each step commits all masks and stores the score of each. Before step i > 0 of S, the
    ⌊m(1 − i/S)⌋ tokens with the lowest stored scores are masked again, m being the number of masks when the block began."""

    window: int | None = setting(
        "blocks whose tokens may be masked again, the last of which is being decoded; null: all up to it", None, min=1
    )

    remasks = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        if config.model.topology.block_size is not None and self.window != 1:
            yield (
                f"sampler.schedule.window={'null' if self.window is None else self.window} would mask tokens of earlier "
                f"blocks, but with model.kind={config.model.kind} later ones attend to them: set sampler.schedule.window=1."
            )

    def inside(self, step: Step) -> Tensor:
        """The positions (B, G) that may be masked again."""
        before_BG = step.block_B[:, None] - step.block_BG
        is_inside_BG = (before_BG >= 0) & step.free_BG
        return is_inside_BG if self.window is None else is_inside_BG & (before_BG < self.window)

    def scores(self, step: Step) -> Tensor:
        """The score (B, G) of each token when it was committed last."""
        return step.memory.get("rcr.score", 0.0, step.masked_BG.shape[1])

    def masks(self, step: Step) -> Tensor:
        """The number of masks in each row, (B,), when the step predicts."""
        steps_B = self.steps_of(step)
        return step.started_B * (steps_B - step.index_B).clamp(min=0) // steps_B

    def remask_before(self, step: Step) -> Tensor | None:
        committed_BG = self.inside(step) & ~step.all_masked_BG & (step.index_B > 0)[:, None]
        score_BG = self.scores(step).masked_fill(~committed_BG, -torch.inf)
        return committed_BG & ~best(score_BG, committed_BG.sum(-1) - self.masks(step))

    def candidates(self, step: Step) -> Tensor:
        return step.all_masked_BG & self.inside(step)

    def update(self, ranking: Ranking, step: Step) -> None:
        score_BG = self.scores(step)
        score_BG.copy_(torch.where(ranking.open_BG, ranking.tied_BG, score_BG))

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return ranking.open_BG

    def ended(self, step: Step) -> Tensor:
        return self.masks(step) == 0
