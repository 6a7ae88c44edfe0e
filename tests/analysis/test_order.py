"""Order statistics in closed form, and against slow definitions."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rws_cli.analysis.guidance import guidance_statistics, mean_guidance
from rws_cli.analysis.order import mean_statistics, order_statistics
from rws_cli.decoding.record import RowTrace


def of(positions: list[int], steps: list[int] | None = None, block: int | None = None, keep=None) -> dict:
    steps = list(range(len(positions))) if steps is None else steps
    return order_statistics(positions, steps, block or max(positions, default=0) + 1, keep)


def test_left_to_right() -> None:
    found = of(list(range(12)))
    assert found["god_tokens"] == found["god_steps"] == found["god_tokens_in_block"] == found["backward_share"] == 0
    assert found["kendall_tau"] == found["spearman"] == pytest.approx(1)
    assert all(found[f"{where}_ar_ness@{k}"] == 1 for where in ("local", "global") for k in (1, 2, 4))
    assert found["mean_jump"] == 1


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_reversed(n: int) -> None:
    found = of(list(range(n))[::-1])
    assert found["god_tokens"] == found["god_steps"] == pytest.approx(n / 2 if n % 2 == 0 else (n * n - 1) / (2 * n))
    assert found["kendall_tau"] == found["spearman"] == pytest.approx(-1)
    assert found["local_ar_ness@1"] == 0
    assert found["global_ar_ness@1"] == pytest.approx(1 / n)  # the last one left
    assert found["backward_share"] == 1


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_expectations_over_all_orders(n: int) -> None:
    found = [of(list(order)) for order in itertools.permutations(range(n))]
    means = mean_statistics(found)
    assert means["god_tokens"] == pytest.approx((n * n - 1) / (3 * n))
    assert means["god_steps"] == pytest.approx((n * n - 1) / (3 * n))
    assert means["kendall_tau"] == pytest.approx(0, abs=1e-12)
    assert means["backward_share"] == pytest.approx(0.5)
    assert means["mean_jump"] == pytest.approx((n + 1) / 3)
    assert means["local_ar_ness@1"] == pytest.approx(1 / n)  # n − 1 ascending neighbors among n (n − 1) ordered pairs
    assert means["global_ar_ness@1"] == pytest.approx(sum(1 / m for m in range(1, n + 1)) / n)


def test_blocks_left_to_right_reversed_inside() -> None:
    found = of([3, 2, 1, 0, 7, 6, 5, 4], block=4)
    assert found["god_tokens"] == found["god_tokens_in_block"] == 2
    assert found["god_steps_in_block"] == 2
    swapped = of([4, 5, 6, 7, 0, 1, 2, 3], block=4)
    assert swapped["god_tokens"] == 4
    assert swapped["god_tokens_in_block"] == swapped["god_steps_in_block"] == 0


def test_parallel_commits_share_their_rank() -> None:
    everything_at_once = of([0, 1, 2, 3], [5, 5, 5, 5])
    assert everything_at_once["god_tokens"] == 1.0  # all ranks are 1.5
    assert everything_at_once["god_steps"] == 0
    assert everything_at_once["kendall_tau"] is None
    assert everything_at_once["backward_share"] is None
    pairs = of([2, 3, 0, 1], [0, 0, 1, 1])
    assert pairs["god_steps"] == 1
    assert pairs["god_tokens"] == 2


def test_left_out_tokens_do_not_count() -> None:
    """End tokens committed first at the tail make an order look scattered; without them it is left to right."""
    positions, keep = [5, 4, 0, 1, 2, 3], [False, False, True, True, True, True]
    assert of(positions)["god_tokens"] > 1
    assert of(positions, keep=keep)["god_tokens"] == of(positions, keep=keep)["god_steps"] == 0
    assert of(positions, keep=[False] * 6)["god_tokens"] is None


orders = st.integers(2, 9).flatmap(
    lambda n: st.tuples(st.permutations(range(n)), st.lists(st.integers(0, 4), min_size=n, max_size=n))
)


@given(orders, st.randoms())
def test_against_scipy_and_slow_definitions(order: tuple[list[int], list[int]], shuffle: random.Random) -> None:
    positions, steps = order
    found = of(positions, steps, block=3)
    pairs = list(zip(positions, steps, strict=True))
    shuffle.shuffle(pairs)
    assert of([p for p, _ in pairs], [s for _, s in pairs], block=3) == found

    n = len(positions)
    rank_of = stats.rankdata
    assert found["god_tokens"] == pytest.approx(sum(abs(rank_of(steps) - rank_of(positions))) / n)
    if len(set(steps)) > 1:
        assert found["kendall_tau"] == pytest.approx(stats.kendalltau(positions, steps).statistic)
        assert found["spearman"] == pytest.approx(stats.spearmanr(positions, steps).statistic)
    ordered = [p for _, p in sorted(zip(steps, positions, strict=True))]
    for k in (1, 2, 4):
        windows = [ordered[i : i + k + 1] for i in range(n - k)]
        runs = [w == list(range(w[0], w[0] + k + 1)) for w in windows]
        assert found[f"local_ar_ness@{k}"] == (pytest.approx(sum(runs) / len(runs)) if runs else None)
        leftmost = [p in sorted(set(positions) - set(ordered[:i]))[:k] for i, p in enumerate(ordered)]
        assert found[f"global_ar_ness@{k}"] == pytest.approx(sum(leftmost) / n)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        order_statistics([0, 1], [0], 2)
    with pytest.raises(ValueError, match="twice"):
        order_statistics([1, 1], [0, 1], 2)


def test_steering_is_summed_over_steps_and_pairs() -> None:
    """Three steps of two tokens: 15, 6 and 1 pairs, of which 3, 0 and 1 were turned around."""
    pairs, turned, scales = (15, 6, 1), (3, 0, 1), (1.0, 2.0, 4.0)
    trace = RowTrace(step=[0, 0, 1, 1, 4, 4], scale=[s for s in scales for _ in "ab"])
    trace.pairs, trace.reversals = [p for p in pairs for _ in "ab"], [t for t in turned for _ in "ab"]
    trace.changed_selection = [True, True, False, False, False, False]
    found = guidance_statistics(trace)
    assert found is not None
    assert found["scale"] == pytest.approx(7 / 3)
    assert found["temperature"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert found["reversals"] == pytest.approx(4 / 22)
    assert found["changed_selections"] == pytest.approx(1 / 3)
    assert found["reversals_by_progress"] == [[15, 3], [0, 0], [0, 0], [6, 0], [0, 0], [0, 0], [1, 1], *[[0, 0]] * 3]
    mean = mean_guidance([found, None, found])
    assert mean is not None
    assert mean["reversals"] == pytest.approx(4 / 22)
    assert mean["reversals_by_progress"] == [0.2, None, None, 0.0, None, None, 1.0, None, None, None]
