"""Particles resampled at block ends by the model's own probabilities (Self-Rewarding SMC, 2602.01849)"""

from torch import Tensor

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search


@part
class SelfRewardingSmc(Search):
    """Particles are weighed by the probability of their committed tokens."""

    particles: int = setting("completions of one prompt that are decoded in parallel", 4, min=1)
    ess: float = setting(
        "resample at a block's end if the effective sample size is below this share of the particles",
        0.5,
        min=0.0,
        max=1.0,
    )
    ending: str = setting("return the likeliest particle, or one drawn by weight", "best", choices=("best", "draw"))

    waits = True
    weighs_text = True

    def path(self, step: Step) -> Tensor:
        """Σ log p of all tokens that each row committed, (B,)."""
        return step.memory.get("search.path", 0.0)

    def committed(self, step: Step, log_p_B: Tensor) -> None:
        for value_B in (self.path(step), self.log_w(step)):
            value_B += log_p_B

    def block_ended(self, step: Step, ended_B: Tensor, number_B: Tensor) -> Tensor:
        weights = self.log_w(step).view(-1, self.particles).softmax(-1)
        few = 1 / (weights**2).sum(-1) < self.ess * self.particles
        return self.resample(few.repeat_interleave(self.particles) & ended_B, step, number_B)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        return self.chosen(self.path(step)[rows].tolist(), step, rows, self.ending)
