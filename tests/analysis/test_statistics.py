"""Intervals and tests: against statsmodels, and in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap, permutation_test
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from rws_cli.analysis import statistics
from rws_cli.analysis.statistics import bootstrap_interval, difference_p, holm, mcnemar, wilson


def test_wilsons_interval_is_statsmodels() -> None:
    for n in (1, 2, 7, 100, 20_000):
        for successes in {0, 0.5, 1, n / 3, n / 2, n - 1, n}:
            expected = proportion_confint(successes, n, method="wilson")
            assert wilson(successes, n) == pytest.approx(np.clip(expected, 0, 1), abs=1e-14)


def test_mcnemars_exact_test_is_statsmodels() -> None:
    for gained in (0, 1, 2, 5, 40, 300):
        for lost in (0, 1, 3, 5, 41, 700):
            expected = reference_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if gained + lost else 1.0
            assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-12)


def test_holms_correction_is_statsmodels() -> None:
    draw = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 50):
        p = [*draw.random(n), *draw.random(n) ** 8, 0.01, 0.01, 0.0, 1.0]
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
def test_how_much_is_in_memory_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(statistics, "AT_ONCE", at_once)
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    values = np.random.default_rng(1).normal(size=30)
    seeded = {"rng": np.random.default_rng(0)}
    whole = bootstrap((values,), np.mean, n_resamples=1000, method="percentile", **seeded).confidence_interval
    assert bootstrap_interval(values) == (whole.low, whole.high)
    seeded = {"rng": np.random.default_rng(0)}
    found = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=999, **seeded)
    assert difference_p(values) == found.pvalue


def test_memory_of_the_bootstrap_does_not_grow_with_its_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 resamples of 50,000 values are 400 MB, and are never there at once."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    values = np.random.default_rng(0).normal(size=50_000)
    tracemalloc.start()
    try:
        bootstrap_interval(values)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
