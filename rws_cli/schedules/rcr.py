"""Masks are where tokens were least confident when they were proposed last (RCR, 2508.13148)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Rcr(Schedule):
    """Running confidence remasking. A step scores the proposed tokens of all masks; each committed token has the score that it
    was committed with. After step i of S, the ⌊m(1 − (i + 1)/S)⌋ lowest of all these scores are masks, m being the number of
    masks when the block began: masks above them take their proposed tokens, committed tokens among them are masked again."""

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
        """The score (B, G) that each token was committed with."""
        return step.memory.get("rcr.score", 0.0, step.masked_BG.shape[1])

    def retained(self, step: Step) -> Tensor:
        """The positions (B, G) that are no masks after the step."""
        return step.memory.get("rcr.retained", False, step.masked_BG.shape[1], dtype=torch.bool)

    def candidates(self, step: Step) -> Tensor:
        return step.all_masked_BG & self.inside(step)

    def best(self, ranking: Ranking, step: Step) -> Tensor:
        """The positions (B, G) that are no masks after a step with these scores."""
        inside_BG, steps_B = self.inside(step), self.steps_of(step)
        score_BG = torch.where(ranking.open_BG, ranking.tied_BG, self.scores(step))
        masks_B = step.started_B * (steps_B - 1 - step.index_B).clamp(min=0) // steps_B
        return best(score_BG.masked_fill(~inside_BG, -torch.inf), inside_BG.sum(-1) - masks_B)

    def update(self, ranking: Ranking, step: Step) -> None:
        self.retained(step).copy_(self.best(ranking, step))
        self.scores(step).copy_(torch.where(ranking.open_BG, ranking.tied_BG, self.scores(step)))

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return self.best(ranking, step) & ranking.open_BG

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        revised_BG = self.inside(step) & ~step.all_masked_BG & ~self.retained(step)
        return revised_BG & self.candidates(step).any(-1, keepdim=True)

    def ended(self, step: Step) -> Tensor:
        return ~self.candidates(step).any(-1)
