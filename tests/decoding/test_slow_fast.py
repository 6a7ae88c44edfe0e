"""SlowFast against a slow decoder, written from the authors' code, and on confidences written by hand."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from decoding.test_methods import PROMPT, Slow, fast, ranking_of, rows_of, surest
from support import FakeDenoiser, make_sampler, part

from rws_cli.decoding.step import step_of

CASES = ("cycles", "fast", "together", "unstable")


def decode_slowly(slow: Slow, block: int, s: Any) -> dict[str, int]:
    """Fills slow.x; returns how often each of the rule's cases occurred."""
    cases = dict.fromkeys(CASES, 0)
    for first in range(0, len(slow.x), block):
        where, steps, start = list(range(first, first + block)), 0, 0
        while slow.masked(where):
            ends: list[int] = []
            end, is_stable, slow_steps = 0, False, 0
            while slow.masked(where) and (slow_steps < s.explore or slow.masked(where[start:end])):
                seen = slow.look(first + steps, where)
                if slow_steps < s.explore:
                    if not is_stable:
                        sure = [i - first for i in seen if seen[i]["c"] >= s.span_threshold]
                        ends = [*ends, max(sure) + 1 if sure else start + 1][-s.window :]
                        is_stable = len(ends) == s.window and statistics.pstdev(ends) < s.deviation
                        end = ends[-1] if is_stable else int(statistics.mean(ends))
                    slow_steps += 1
                else:
                    seen = {i: one for i, one in seen.items() if i in where[start:end]}
                    cases["fast"] += 1
                together = [i for i in seen if seen[i]["c"] >= s.threshold]
                slow.commit(seen, together if len(together) > 1 else surest(seen)[:1])
                cases["together"] += len(together) > 1
                steps += 1
            cases["cycles"] += 1
            cases["unstable"] += not is_stable
            start = end
    return cases


@pytest.mark.parametrize(
    "settings",
    [{"explore": 2}, {"explore": 1, "window": 1}, {"explore": 2, "window": 3, "span_threshold": 0.4},
     {"explore": 2, "deviation": 3.0}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
def test_the_rule_is_that_of_a_slow_reference(settings: dict[str, Any], temperature: float) -> None:
    total, blocks = dict.fromkeys(CASES, 0), 0
    for seed in range(2):
        for gen, block in ((14, 14), (12, 6)):
            model, schedule = FakeDenoiser(seed=seed), part("schedule", "slow_fast", threshold=0.5, **settings)
            model.head *= 0.3
            slow = Slow(model, PROMPT, gen, temperature)
            blocks += gen // block
            for case, count in decode_slowly(slow, block, schedule).items():
                total[case] += count
            tokens, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
            assert tokens == slow.x
            assert len(set(trace.step)) == slow.passes
    assert total["together"]
    assert total["cycles"] > blocks
    assert total["fast"]
    assert total["unstable"] or settings.get("window") == 1


def committed(steps: list[list[float]], **settings: Any) -> list[list[int]]:
    """The positions that each step commits, by confidences written by hand."""
    schedule, batch, positions = part("schedule", "slow_fast", **settings), rows_of(1, len(steps[0])), []
    schedule.prepare(make_sampler(len(steps[0])))
    for c in steps:
        step = step_of(batch)
        ranking = ranking_of(torch.tensor([c], dtype=torch.float64).log(), schedule.candidates(step))
        schedule.update(ranking, step)
        chosen_BG = schedule.choose(ranking, step)
        positions.append(chosen_BG[0].nonzero()[:, 0].tolist())
        batch.completion_BG.masked_fill_(chosen_BG, 1)
        batch.index_B += 1
    return positions


def test_fast_steps_stay_in_the_span() -> None:
    """Two slow steps agree that the span ends behind position 3; then only its masks are open, however sure others are."""
    c = [0.2, 0.5, 0.2, 0.4, 0.1, 0.2, 0.1, 0.2]
    late = [0.2, 0.5, 0.2, 0.4, 0.99, 0.99, 0.1, 0.2]
    assert committed([c, c, late, late, late], explore=2) == [[1], [3], [0], [2], [4, 5]]


def test_one_sure_token_is_no_group() -> None:
    """A fast or slow step commits the best token alone, unless two reach the threshold."""
    assert committed([[0.95, 0.1, 0.93, 0.2], [0.0, 0.91, 0.0, 0.2]]) == [[0, 2], [1]]


def test_estimates_that_never_agree_are_averaged() -> None:
    """Ends 2 and 7 have a mean of 4.5: the span ends before position 4."""
    first, then = [0.1, 0.4] + [0.1] * 6, [0.1, 0.1, 0.2, 0.1, 0.2, 0.1, 0.5, 0.2]
    late = [0.1, 0.0, 0.3, 0.2, 0.95, 0.95, 0.0, 0.95]
    assert committed([first, then, late, late, late, late], explore=2) == [[1], [6], [2], [3], [0], [4, 5, 7]]


def test_without_a_likely_token_the_span_grows_by_one_position() -> None:
    c = [0.2, 0.1, 0.15, 0.25]
    assert committed([c, c, c, c], explore=1, window=1) == [[3], [0], [2], [1]]
