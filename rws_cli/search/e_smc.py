"""Particles resampled by how uncertain the model is of their masks (E-SMC, 2512.21336)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import chunk_size
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step, spread
from rws_cli.part import part, setting
from rws_cli.search.base import Search, commit_alike


@part
class ESmc(Search):
    """The state entropy h of a particle before a step is the mean entropy of the model's distributions at its masks, and its
    certainty is r = 1 − h / log V. Every few steps particles are resampled with probabilities softmax(exp(λr)) or
    softmax(λr + 1) over the particles of a prompt; no weight is carried over. The particle with the highest mean r of all
    steps, which is the lowest path entropy, is returned."""

    particles: int = setting("completions of one prompt that are decoded in parallel", 8, min=1)
    every: int | None = setting(
        "steps between resamplings; null: never, which is best of N by path entropy (E-BoN)", 50, min=1
    )
    strength: float = setting("λ, by which the certainty of a particle is multiplied", 5.0, min=0.0)
    potential: str = setting(
        "what the softmax over particles reads: exp(λr) (exponential) or λr + 1 (linear)",
        "exponential",
        choices=("exponential", "linear"),
    )

    caches = ("prefix",)

    def conflicts(self, config: Any) -> Iterator[str]:
        yield from super().conflicts(config)
        if self.every is not None:
            yield from commit_alike(self.kind, config)

    def due(self, step: Step) -> Tensor:
        return step.live_B

    def weigh(self, predicted: PositionLogits, step: Step, active_B: Tensor) -> Tensor | None:
        certainty_B = certainty(predicted, step)
        total_B, steps_B = self.path(step)
        total_B += certainty_B.where(active_B, 0.0)
        steps_B += active_B
        if self.every is None:
            return None
        due_B = active_B & (step.number_B > 0) & (step.number_B % self.every == 0)
        busy_B = due_B.view(-1, self.particles).any(1).repeat_interleave(self.particles)
        scaled_B = self.strength * certainty_B
        potential_B = scaled_B.exp() if self.potential == "exponential" else scaled_B + 1
        self.log_w(step).copy_(potential_B.where(busy_B, 0.0))
        return self.resample(busy_B, step, step.number_B)

    def path(self, step: Step) -> tuple[Tensor, Tensor]:
        """Of each row the sum of r over its steps, and their number, (B,) each."""
        return step.memory.get("search.certainty", 0.0), step.memory.get("search.steps", 0.0)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        total_B, steps_B = self.path(step)
        return self.chosen((total_B / steps_B.clamp(min=1.0))[rows].tolist(), step, rows)


def certainty(predicted: PositionLogits, step: Step) -> Tensor:
    """1 − h / log V of each row, (B,); h, the mean entropy at the row's masks, is without the mask token."""
    entropies, size = [], predicted.logits_NV.shape[1]
    mask_1 = torch.tensor([step.mask_id]).to(predicted.logits_NV.device)
    for z_nV in predicted.logits_NV.split(chunk_size(predicted.logits_NV)):
        p_nV = z_nV.double().index_fill(1, mask_1, -math.inf).softmax(-1)
        entropies.append(torch.special.entr(p_nV).sum(-1))
    masked_N = step.all_masked_BG[predicted.row_N, predicted.position_N]
    columns_N2 = torch.stack([torch.cat(entropies) * masked_N, masked_N.double()], 1)
    sum_B, count_B = spread(columns_N2, predicted.row_N, predicted.position_N, step.all_masked_BG, 0.0).sum(1).T
    return 1 - sum_B / count_B.clamp(min=1.0) / math.log(size)
