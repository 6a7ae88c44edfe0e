"""Location and spread of a reward's scores, and what a score becomes by them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """Of a reward's scores, as measured when it was calibrated."""

    mean: float
    std: float
    min: float
    max: float


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
