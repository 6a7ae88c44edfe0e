"""Win rates from verdicts in both orders."""

from __future__ import annotations

import pytest
from statsmodels.stats.proportion import proportion_confint

from rws_cli.analysis.win_rate import outcome, win_rate


@pytest.mark.parametrize(
    ("second", "first", "expected"),
    [(1, 1, 1.0), (0, 0, 0.0), (1, 0, 0.5), (0, 1, 0.5), (0.5, 0.5, 0.5), (1, 0.5, 0.5), (0.5, 0, 0.5)],
)
def test_only_a_preference_in_both_orders_counts(second: float, first: float, expected: float) -> None:
    assert outcome(second, first) == expected


def test_counts_rate_and_interval() -> None:
    verdicts = [
        ("a", (1.0, 1.0), 1.0), ("b", (0.0, 0.0), 2.0), ("c", (1.0, 0.0), 3.0), ("d", (0.5, 0.5), 4.0),
        ("e", (1.0, 1.0), 5.0), ("f", (None, 1.0), 6.0),
    ]  # fmt: skip
    found = win_rate(verdicts)
    assert found is not None
    assert (found.wins, found.ties, found.losses, found.disagreements, found.unreadable) == (2, 2, 1, 1, 1)
    assert (found.rate, found.questions) == (3 / 5, 5)
    assert found.interval == pytest.approx(proportion_confint(3, 5, method="wilson"))
    assert [(q.rate, q.god) for q in found.by_god] == [
        (1.0, (1, 1)), (0.0, (2, 2)), (0.5, (3, 3)), (0.5, (4, 4)), (1.0, (5, 5))
    ]  # fmt: skip
    assert win_rate([("a", (None, None), 1.0)]) is None


def test_answers_to_a_question_are_averaged_first() -> None:
    found = win_rate([("a", (1.0, 1.0), 1.0), ("a", (1.0, 1.0), 3.0), ("b", (0.0, 0.0), 0.0)])
    assert found is not None
    assert (found.rate, found.questions, found.wins) == (0.5, 2, 2)
    assert found.by_god == []  # too few for fifths


def test_fifths_are_as_equal_as_can_be() -> None:
    found = win_rate([(str(n), (1.0, 1.0) if n >= 7 else (0.0, 0.0), float(n)) for n in range(12)])
    assert found is not None
    assert [q.questions for q in found.by_god] == [2, 2, 3, 2, 3]
    assert [q.rate for q in found.by_god] == [0, 0, 0, 1, 1]
