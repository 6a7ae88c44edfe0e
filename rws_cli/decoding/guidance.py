"""Reward-Weighted Sampling (arXiv 2509.00707) in four small steps, and the constant scale that controls for it.

At each step the masks of the canvas are filled, the reward model scores the whole text, the score is normalized, and
a scale r > 0 made of it multiplies the logits: z' = r·z. One scalar for all positions never changes a position's
likeliest token; it changes which position is surest, and so the order ("rank reversals"). With one scalar a step
equals decoding at temperature 1/r.

The paper's full text leaves open how masks are shown to the reward model, how its score is normalized, what form the
scale takes and which logits it multiplies. Each is an option here; the defaults in conf/guidance/rws.yaml are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.config.schema import RewardGuidance
from rws_cli.decoding.prediction import FILL, propose, temper
from rws_cli.errors import RunError

LARGEST_SCALE = 1e4
"""Logits of a few tens times this stay finite in float32 and are an argmax in effect."""


@dataclass(frozen=True)
class Statistics:
    """Location and spread of a reward's scores, as measured when it was calibrated."""

    mean: float
    std: float
    min: float
    max: float


def fill(logits_NV: Tensor, how: str, mask_id: int, key_N: Tensor, step: int, position_N: Tensor) -> Tensor:
    """Tokens (N,) to show in place of masks: the likeliest ("argmax") or one drawn at T = 1 ("sample").

    For "drop" and "keep" the masks stay; the text is then rendered without or with them.
    """
    if how in ("drop", "keep"):
        return torch.full_like(position_N, mask_id)
    temperature = 1.0 if how == "sample" else 0.0
    scores_NV = temper(logits_NV.double(), temperature, 1.0) if temperature else logits_NV
    return propose(scores_NV, temperature, mask_id, key_N, step, position_N, FILL)


def normalize(score: float, how: str, statistics: Statistics) -> float:
    """The score as it is ("none"), its z-score, its place between the stored extremes in [0, 1] ("minmax", clipped),
    or the logistic function of the z-score ("sigmoid", in (0, 1))."""
    if how == "none":
        return score
    if how == "minmax":
        width = statistics.max - statistics.min
        return min(max((score - statistics.min) / width, 0.0), 1.0) if width > 0 else 0.5
    z = (score - statistics.mean) / statistics.std if statistics.std > 0 else 0.0
    if how == "zscore":
        return z
    return 1.0 / (1.0 + math.exp(-min(max(z, -50.0), 50.0)))


def scale(r: float, settings: RewardGuidance) -> float:
    """What multiplies the logits, always positive and finite.

    identity: r. linear: 1 + λr. exponential: exp(λr). floored: max(floor, r). Whatever falls below
    `floor` is held there, and above 10^4 there. A raw score (normalize=none) must give a positive scale by
    itself: a negative one would invert the logits, zero would flatten them.

    Raises RunError for a raw score that does not, and for one that is not a number.
    """
    if not math.isfinite(r):
        raise RunError(
            f"The reward model returned {r}, which cannot scale logits: check the reward model and its dtype."
        )
    strength = settings.strength
    if settings.form == "linear":
        value = 1.0 + strength * r
    elif settings.form == "exponential":
        value = math.exp(min(strength * r, math.log(LARGEST_SCALE)))
    else:
        value = r
    if settings.normalize == "none" and settings.form != "floored" and value <= 0:
        raise RunError(
            f"The raw reward {r:g} makes the scale {value:g} (sampler.guidance.form={settings.form}, "
            f"strength={strength:g}), which would invert the logits: set sampler.guidance.normalize=sigmoid, "
            "or form=floored or exponential."
        )
    return min(max(value, settings.floor), LARGEST_SCALE)


def apply(logits_NV: Tensor, scale_N: Tensor, target: str) -> Tensor:
    """z' = r·z on all logits of a position, or on its largest alone ("proposed")."""
    if target == "all":
        return logits_NV * scale_N[:, None]
    top_N = logits_NV.argmax(-1, keepdim=True)
    return logits_NV.scatter(-1, top_N, logits_NV.gather(-1, top_N) * scale_N[:, None])


def count_reversals(before_BG: Tensor, after_BG: Tensor, open_BG: Tensor) -> list[tuple[int, int]]:
    """For each row the pairs of open positions, and those of them whose order by score is strictly turned around."""
    counts = []
    for before, after, is_open in zip(before_BG, after_BG, open_BG, strict=True):
        b, a = before[is_open], after[is_open]
        turned = torch.sign(b[:, None] - b) * torch.sign(a[:, None] - a) < 0
        counts.append((len(b) * (len(b) - 1) // 2, int(turned.sum()) // 2))
    return counts
