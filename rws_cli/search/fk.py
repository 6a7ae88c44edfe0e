"""Particles resampled by the reward of their completions (FK steering, 2501.06848)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.noise import mix
from rws_cli.decoding.prediction import complete
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search, commit_alike

COMPLETION = 1 << 42
"""Added to random-number keys for each further completion."""


@part
class Fk(Search):
    """Particles are weighed by the reward of the text so far, with its masks completed, and resampled every few steps. The
    target is p(x)·exp(r(x)/β). The reward of unfinished text is r̂(x_t) = log mean_j exp(r(x0^j)/β) over completions x0^j,
    made from the logits of the next step: one forward pass serves both, where the paper counts two."""

    particles: int = setting("completions of one prompt that are decoded in parallel", 4, min=1)
    beta: float = setting("β of the target p(x)·exp(r(x)/β)", 0.1, above=0.0)
    potential: str = setting(
        "the potential of a particle: the rise of its reward (difference), its highest one (max), or the sum",
        "difference",
        choices=("difference", "max", "sum"),
    )
    every: int = setting("steps between resamplings", 5, min=1)
    completions: int = setting("completions of each intermediate sequence that are scored", 1, min=1)
    fill: str = setting(
        "how masks are completed: by the likeliest tokens (argmax, one completion) or by drawn ones (sample)",
        "argmax",
        choices=("argmax", "sample"),
    )
    ending: str = setting(
        "the particle that is returned: the one of highest reward (best), or one drawn by weight (draw)",
        "best",
        choices=("best", "draw"),
    )

    needs = ("reward",)
    caches = ("prefix",)
    weighs_text = True

    def conflicts(self, config: Any) -> Iterator[str]:
        yield from super().conflicts(config)
        yield from commit_alike(self.kind, config)
        if self.fill == "argmax" and self.completions > 1:
            yield (
                f"sampler.search.completions={self.completions} would all be the same: set sampler.search.fill=sample."
            )

    def calls(self, steps: int) -> int:
        return (steps - 1) // self.every * self.completions + 1

    def due(self, step: Step) -> Tensor:
        return (step.number_B > 0) & (step.number_B % self.every == 0)

    def weigh(self, predicted: PositionLogits, step: Step, active_B: Tensor) -> Tensor | None:
        """Weigh the particles of all unfinished prompts by their reward so far, and resample."""
        busy_B = (active_B & self.due(step)).view(-1, self.particles).any(1).repeat_interleave(self.particles)
        reward_B = self.estimate(predicted, step, busy_B)
        most_B, sum_B = (step.memory.get(f"search.{n}", v) for n, v in (("most", -math.inf), ("sum", 0.0)))
        spent_B, log_w_B = step.memory.get("search.spent", 0.0), self.log_w(step)
        most_B.copy_(torch.where(busy_B, torch.maximum(most_B, reward_B), most_B))
        sum_B += reward_B
        # The sum of potentials that are differences is the last reward itself.
        potentials = {"difference": reward_B - spent_B, "max": most_B, "sum": sum_B}
        log_g_B = potentials[self.potential].where(busy_B, 0.0)
        spent_B += log_g_B
        log_w_B += log_g_B
        return self.resample(busy_B, step, step.number_B)

    def estimate(self, predicted: PositionLogits, step: Step, busy_B: Tensor) -> Tensor:
        """r̂ of the busy rows, 0 of the others."""
        row_N, position_N, completions = predicted.row_N, predicted.position_N, []
        for number in range(self.completions):
            key_N = step.key_B[row_N]
            key_N = key_N if number == 0 else mix(key_N + number * COMPLETION)
            completed_BG = step.tokens_BG.clone()
            token_N = complete(predicted.logits_NV, self.fill, step.mask_id, key_N, step.number_B[row_N], position_N)
            masked_N = step.all_masked_BG[row_N, position_N]
            completed_BG[row_N, position_N] = torch.where(masked_N, token_N, completed_BG[row_N, position_N])
            completions.append(step.score(completed_BG, busy_B))
        rows, reward_B = list(completions[0]), torch.zeros(len(busy_B), dtype=torch.float64)
        rewards = torch.tensor([[scores[row] for row in rows] for scores in completions], dtype=torch.float64)
        reward_B[rows] = rewards.div(self.beta).logsumexp(0) - math.log(self.completions)
        return reward_B.to(busy_B.device)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        scores = step.final_scores(rows)
        log_w_B = self.log_w(step)
        final = torch.tensor(scores, dtype=torch.float64).to(log_w_B.device)
        log_w_B[rows] += final / self.beta - step.memory.get("search.spent", 0.0)[rows]
        compared = step.compared(rows, self.particles) if self.ending == "best" else None
        return self.chosen(scores, step, rows, self.ending, compared)
