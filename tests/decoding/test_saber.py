"""Saber against a slow decoder, written from the authors' code, which decodes a completion as one block."""

from __future__ import annotations

import math

import pytest
from decoding.test_methods import PROMPT, Slow, fast, surest
from support import FakeDenoiser, part


def decode_slowly(slow: Slow, block: int, least: int, ratio: int) -> tuple[list[tuple[int, int]], int]:
    """Fills slow.x; returns the steps and positions of all commits, and how many tokens were masked again."""
    commits, again, confidence = [], 0, {}
    for start in range(0, len(slow.x), block):
        where, index, last = list(range(start, start + block)), 0, dict.fromkeys(range(start, start + block), 0.0)
        while True:
            seen = slow.look(start + index, where)
            now = {i: slow.propose(slow.last[i], start + index, i)["c"] for i in where}
            growth, last = {i: now[i] - last[i] for i in where}, now
            mean = sum(confidence.values()) / len(confidence) if confidence else 1.0
            chosen = [i for i in seen if seen[i]["c"] > mean]
            if len(chosen) < least:
                chosen = surest(seen)[:least]
            slow.commit(seen, sorted(chosen))
            confidence |= {i: seen[i]["c"] for i in chosen}
            commits += [(start + index, i) for i in sorted(chosen)]
            index += 1
            if not slow.masked(where):
                break
            number = max(least, len(chosen))
            count = min(max(least // 2, math.ceil(number / ratio)), number - 1)
            filled = [i for i in where if slow.x[i] >= 0]
            for i in sorted(filled, key=lambda i: (growth[i], i))[:count]:
                slow.x[i] = -1
                again += 1
    return commits, again


@pytest.mark.parametrize(("least", "ratio"), [(2, 8), (1, 8), (3, 2), (5, 8), (1, 1)])
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
def test_the_rule_is_that_of_a_slow_reference(least: int, ratio: int, temperature: float) -> None:
    total = 0
    for seed in range(2):
        for gen, block in ((8, 8), (8, 4)):
            model = FakeDenoiser(seed=seed)
            slow = Slow(model, PROMPT, gen, temperature)
            commits, again = decode_slowly(slow, block, least, ratio)
            total += again
            schedule = part("schedule", "saber", least=least, ratio=ratio)
            tokens, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
            assert tokens == slow.x
            assert list(zip(trace.step, trace.position, strict=True)) == commits
            assert sum(step is not None for step in trace.remasked_at) == again
    assert total


def test_a_token_can_be_masked_again_at_the_step_that_committed_it() -> None:
    """At the first step nothing was confident before, so the less confident of two tokens is masked again."""
    for seed in range(3):
        trace = fast(FakeDenoiser(seed=seed), PROMPT, 8, schedule=part("schedule", "saber"))[1]
        assert trace.step[:3] == [0, 0, 1]
        less, more = sorted((0, 1), key=lambda n: trace.confidence[n])
        assert trace.remasked_at[less] == 1
        assert trace.remasked_at[more] != 1
