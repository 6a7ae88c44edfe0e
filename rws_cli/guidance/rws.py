"""Reward-Weighted Sampling: logits scaled by the reward of the whole sequence, at each step (RWS, 2509.00707)

At each step the masks are completed, the reward model scores the whole text, the score is normalized and turned into a
scale r > 0, and the logits are multiplied by it: z' = r·z. METHODS.md has the step as pseudo-code ("One RWS step"). One
scalar for all positions never changes a position's likeliest token. It changes which position is most confident, and so
the order ("rank reversals"). A step with scale r equals decoding at temperature 1/r.

The paper leaves open how masks are completed for the reward model, how its score is normalized, what form the scale has
and which logits it multiplies. Each is an option here, and the defaults are ours.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import complete
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.statistics import Statistics, normalize
from rws_cli.decoding.step import Step
from rws_cli.errors import RunError
from rws_cli.guidance.base import Guidance, Guided, scaled
from rws_cli.part import part, setting

LARGEST_SCALE = 1e4
"""Logits of a few tens times this stay finite in float32 and are an argmax in effect."""


@part
class Rws(Guidance):
    strength: float = setting("λ, the weight of the reward in the scale (linear, exponential)", 1.0, min=0.0)
    form: str = setting(
        "the scale of a normalized reward r: r, 1 + λr, exp(λr) or max(floor, r)",
        "linear",
        choices=("identity", "linear", "exponential", "floored"),
    )
    normalize: str = setting(
        "how a score is normalized: not at all, or by the reward's statistics",
        "sigmoid",
        choices=("none", "zscore", "minmax", "sigmoid"),
    )
    fill: str = setting(
        "what the reward reads in place of masks: the likeliest token (argmax), a drawn one (sample), nothing (drop), or the "
        "mask token (keep)",
        "argmax",
        choices=("argmax", "sample", "drop", "keep"),
    )
    target: str = setting(
        "which logits of a position are scaled: all, or only the highest (proposed)", "all", choices=("all", "proposed")
    )
    reward_every: int = setting("steps from one reward call to the next; the scale stays in between", 1, min=1)
    floor: float = setting("the least scale", 0.001, above=0.0)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("reward",) if self.normalize == "none" else ("reward", "statistics")

    @property
    def draws(self) -> bool:
        return self.fill == "sample"

    @property
    def shows_masks(self) -> str:
        return "keep" if self.fill == "keep" else "drop"

    def conflicts(self, config: Any) -> Iterator[str]:
        value = getattr(config.reward, "value", 1.0)
        if self.normalize == "none" and value <= 0:
            yield (
                f"reward.value={value} cannot scale logits with sampler.guidance.normalize=none: it must be greater than 0."
            )

    def reads_masked(self, step: Step) -> Tensor:
        """Rows whose next step calls the reward."""
        return step.live_B & (self.calls_B(step) % self.reward_every == 0)

    def calls_B(self, step: Step) -> Tensor:
        """Number of steps of each row, (B,)."""
        return step.memory.get("guidance.calls", 0, dtype=torch.int64)

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        scale_B, reward_B = (step.memory.get(f"guidance.{name}", math.nan) for name in ("scale", "reward"))
        active_B = torch.zeros_like(step.live_B)
        active_B[predicted.row_N] = True
        completed_BG = self.complete_masks(predicted, step)
        scores = step.score(completed_BG, active_B & self.reads_masked(step))
        table = torch.full((2, len(scale_B)), math.nan, dtype=torch.float64)
        for row, score in scores.items():
            table[0, row], table[1, row] = score, self.scale_of(score, step.reward.statistics)
        new_B, new_scale_B = table.to(scale_B.device)
        reward_B.copy_(torch.where(new_B.isnan(), reward_B, new_B))
        scale_B.copy_(torch.where(new_B.isnan(), scale_B, new_scale_B))
        calls_B = self.calls_B(step)
        calls_B += active_B
        return scaled(predicted, scale_B.clone(), reward=reward_B.clone())

    def complete_masks(self, predicted: PositionLogits, step: Step) -> Tensor:
        """The completions (B, G) with masks completed: from the logits where there are some, else as at the last step."""
        row_N, position_N, last_BG = predicted.row_N, predicted.position_N, self.last_completed(step)
        top_N = predicted.top_N
        if self.fill != "argmax" or top_N is None:
            key_N, number_N = step.key_B[row_N], step.number_B[row_N]
            top_N = complete(predicted.logits_NV, self.fill, step.mask_id, key_N, number_N, position_N)
        completed_BG = torch.where(step.all_masked_BG, last_BG, step.tokens_BG)
        masked_N = step.all_masked_BG[row_N, position_N]
        completed_BG[row_N, position_N] = torch.where(masked_N, top_N, completed_BG[row_N, position_N])
        last_BG.copy_(completed_BG)
        return completed_BG

    def last_completed(self, step: Step) -> Tensor:
        """The tokens that completed each position last, for masks whose logits a cache leaves out."""
        return step.memory.get("guidance.completed", step.mask_id, step.tokens_BG.shape[1], dtype=torch.int64)

    def scale_of(self, score: float, statistics: Statistics) -> float:
        """The scale for a score, from the normalized score r.

        identity: r. linear: 1 + λr. exponential: exp(λr). floored: max(floor, r). Scales are clipped to [floor, 10^4]. A raw
        score (normalize=none) must give a positive scale by itself: a negative one would invert the logits, zero would
        flatten them. Raises RunError for a raw score that does not, and for one that is not finite.
        """
        r = normalize(score, self.normalize, statistics)
        if not math.isfinite(r):
            raise RunError(
                f"The reward model returned {r}, which cannot scale logits: check the reward model and its dtype."
            )
        if self.form == "linear":
            value = 1.0 + self.strength * r
        elif self.form == "exponential":
            value = math.exp(min(self.strength * r, math.log(LARGEST_SCALE)))
        else:
            value = r
        if self.normalize == "none" and self.form != "floored" and value <= 0:
            raise RunError(
                f"The raw reward {r:g} makes the scale {value:g} (sampler.guidance.form={self.form}, "
                f"strength={self.strength:g}), which would invert the logits: set sampler.guidance.normalize=sigmoid, "
                "or form=floored or exponential."
            )
        return min(max(value, self.floor), LARGEST_SCALE)

    def calls(self, steps: int) -> int:
        return -(-steps // self.reward_every)
