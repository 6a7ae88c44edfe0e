"""Intervals and tests of paired differences, one per example, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

K = TypeVar("K")
V = TypeVar("V")
Interval = tuple[float, float]
RESAMPLES = 10_000
AT_ONCE = 1 << 20
"""Resampled numbers in memory at a time; it does not change the result."""


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values; None if there are none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def grouped(keys: Iterable[K], values: Iterable[V]) -> dict[K, list[V]]:
    """The values of each key, in order of first occurrence."""
    groups: dict[K, list[V]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)
    return groups


def bootstrap_interval(differences: np.ndarray, seed: int = 0) -> Interval | None:
    """95 % percentile interval of the mean of paired differences (n,), resampling examples; None of one. Seeded."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        mean = float(differences.mean())
        return mean, mean
    interval = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // len(differences)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mean_interval(values: np.ndarray) -> Interval | None:
    """95 % interval of the mean of values (n,): Wilson's if all are 0 or 1, because the bootstrap of only ones has
    no width; else the bootstrap's. None for a single value that is not 0 or 1."""
    import numpy as np

    if np.isin(values, (0.0, 1.0)).all():
        return wilson(float(values.sum()), len(values))
    return bootstrap_interval(values)


def difference_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of "right as often": McNemar's exact test where each difference is −1, 0 or 1; where seeds
    were averaged, a permutation test that swaps the two sides of each example. Seeded."""
    import numpy as np

    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        return mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    from scipy.stats import permutation_test

    result = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES - 1,
        batch=max(1, AT_ONCE // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: two-sided p-value for the numbers of pairs that differ one way and the other."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, (len(p_values) - rank) * p_values[n])
        adjusted[n] = min(1.0, largest)
    return adjusted


def wilson(successes: float, n: int) -> Interval:
    """Wilson's 95 % interval of a share; a tie may count as half a success."""
    share, z = successes / n, NormalDist().inv_cdf(0.975)
    center = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)
