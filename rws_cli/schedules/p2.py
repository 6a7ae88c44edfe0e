"""Masks are where the model is least sure of its proposed token, committed or not (P2, 2502.03540)"""

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part
from rws_cli.schedules.base import Schedule, best


@part
class P2(Schedule):
    """Path planning by the model itself. A step scores the proposed tokens at all n positions of the block, also where
    tokens are committed. After step i of S, the ⌊n(1 − (i + 1)/S)⌋ lowest scores are masks: committed tokens among them are
    masked again, and masks above them take their proposed tokens. Committed tokens above them stay as they are."""

    remasks = True
    caches = ()

    def candidates(self, step: Step) -> Tensor:
        return (step.masked_BG | step.committed_BG) & step.masked_BG.any(-1, keepdim=True)

    def retained(self, step: Step) -> Tensor:
        """The positions (B, G) that are no masks after the step."""
        return step.memory.get("p2.retained", False, step.masked_BG.shape[1], dtype=torch.bool)

    def update(self, ranking: Ranking, step: Step) -> None:
        steps_B, count_B = self.steps_of(step), ranking.open_BG.sum(-1)
        masks_B = count_B * (steps_B - 1 - step.index_B) // steps_B
        self.retained(step).copy_(best(ranking.score_BG, count_B - masks_B))

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return step.masked_BG & best(ranking.score_BG, self.retained(step).sum(-1))

    def selected(self, ranking: Ranking, chosen_BG: Tensor, step: Step) -> Tensor:
        return self.retained(step) & ranking.open_BG

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        return step.committed_BG & step.masked_BG.any(-1, keepdim=True) & ~self.retained(step)

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)
