"""Intervals and tests of paired differences. Each function takes one difference an example, seeds averaged before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000


def bootstrap_interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of paired differences (n,), resampling examples; None of one. Seeded."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        mean = float(differences.mean())
        return mean, mean
    found = bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of values (n,): Wilson's where each is 0 or 1, for the bootstrap of a row of ones would be
    sure; else the bootstrap's. None of one that is no share."""
    import numpy as np

    if np.isin(values, (0.0, 1.0)).all():
        return wilson(float(values.sum()), len(values))
    return bootstrap_interval(values)


def difference_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of "right as often": McNemar's exact test where each difference is −1, 0 or 1; where seeds
    were averaged, a permutation test that swaps the two sides of each example. Seeded."""
    import numpy as np

    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        from statsmodels.stats.contingency_tables import mcnemar

        gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
        return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
    from scipy.stats import permutation_test

    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES - 1, rng=np.random.default_rng(seed)
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]] if p_values else []


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; a tie may count as half a success."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
    return float(low), float(high)
