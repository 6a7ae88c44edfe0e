"""The summary of a run: pass@k, intervals, and what is not graded."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rws_cli.analysis.statistics import wilson
from rws_cli.analysis.summary import pass_at, summarize
from rws_cli.decoding.record import Cost


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(0, n))))
def test_pass_at_k_counts_all_draws(case: tuple[int, int, int]) -> None:
    """Against every way to draw k of n answers, the first `right` of which pass."""
    n, k, right = case
    draws = list(itertools.combinations(range(n), k))
    assert pass_at(k, n, right) == pytest.approx(sum(any(i < right for i in draw) for draw in draws) / len(draws))


def sample(question: str, correct: bool | None) -> dict[str, Any]:
    return {
        "question": question, "reward": None, "order": {"god_tokens": 1.0}, "order_with_eos": {"god_tokens": 1.0},
        "guidance": None, "committed": 4, "cost": vars(Cost(seconds=0.5)),
        "grade": None if correct is None else {"correct": correct, "partial": float(correct)},
    }  # fmt: skip


def test_several_answers_to_a_question() -> None:
    found = summarize([sample("a", True), sample("a", False), sample("b", False), sample("b", False)])
    assert found["accuracy"] == 0.25
    assert found["pass_at"] == {"1": 0.25, "2": 0.5}
    assert found["accuracy_interval"] == [0.0, 0.5]  # two questions: one half, none


def test_answers_lost_to_failures_leave_the_others_their_pass_at() -> None:
    """Of question b all answers but one failed: it still counts as a question, and only pass@1 can be had of it."""
    found = summarize([sample("a", True), sample("a", True), sample("a", False), sample("b", False)])
    assert found["pass_at"] == {"1": pytest.approx((2 / 3 + 0) / 2), "2": 1.0}
    assert found["accuracy_interval"] == pytest.approx([0.0, 2 / 3])  # over two questions, not four answers


def test_one_answer_has_wilsons_interval() -> None:
    found = summarize([sample(str(n), n < 7) for n in range(10)])
    z = 1.959963984540054
    center, half = (0.7 + z**2 / 20) / (1 + z**2 / 10), z * math.sqrt(0.021 + z**2 / 400) / (1 + z**2 / 10)
    assert found["accuracy_interval"] == pytest.approx([center - half, center + half])
    assert wilson(7, 10) == pytest.approx((center - half, center + half))
    assert found["pass_at"] is None


def test_open_prompts_have_no_accuracy() -> None:
    found = summarize([sample("a", None), sample("b", None)])
    assert (found["examples"], found["accuracy"], found["accuracy_interval"], found["partial"]) == (2, None, None, None)
