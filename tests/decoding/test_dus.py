"""DUS against lists of positions per round, written from the authors' rule for a block of any length."""

from __future__ import annotations

import pytest
from decoding.test_methods import PROMPT, Slow, fast
from support import FakeDenoiser, decode, make_sampler, new_canvas, part


def rounds_of(length: int, base: int = 2, skip: int = 1) -> list[list[int]]:
    """The places of a block that each round commits."""
    rounds: list[list[int]] = []
    left, distance = list(range(length)), length // base**skip
    while distance >= 1:
        rounds.append([place for place in left if place % distance == 0])
        left = [place for place in left if place % distance]
        distance //= base
    rounds += [left] if left else []
    if len(rounds) > 1 and len(rounds[-1]) < len(rounds[-2]):
        last = rounds.pop()
        rounds[-1] = sorted(rounds[-1] + last)
    return rounds


def test_rounds_by_hand() -> None:
    assert rounds_of(8) == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert rounds_of(5) == [[0, 1, 2, 3, 4]]  # 0, 2, 4 and then two more
    assert rounds_of(8, base=3) == [[0, 2, 4, 6], [1, 3, 5, 7]]  # the last distance is 2


@pytest.mark.parametrize(("base", "skip"), [(2, 1), (2, 2), (3, 1), (5, 3)])
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
def test_a_block_is_decoded_in_these_rounds(base: int, skip: int, temperature: float) -> None:
    for gen, block in ((8, 8), (12, 4), (9, 3), (36, 36), (7, 7), (10, 5), (2, 1)):
        model = FakeDenoiser(seed=block)
        slow, steps = Slow(model, PROMPT, gen, temperature), []
        per_block = part("schedule", "dus", base=base, skip=skip)
        per_block.prepare(make_sampler(gen, block_length=block))
        for start in range(0, gen, block):
            for number, places in enumerate(rounds_of(block, base, skip)):
                step = start // block * per_block.steps + number
                slow.commit(slow.look(step, list(range(gen))), [start + place for place in places])
                steps += [step] * len(places)
        schedule = part("schedule", "dus", base=base, skip=skip)
        tokens, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
        assert tokens == slow.x
        assert trace.step == steps
        assert len(rounds_of(block, base, skip)) <= per_block.steps


def test_no_score_changes_what_a_round_commits() -> None:
    model = FakeDenoiser(seed=1)
    traces = [
        fast(model, PROMPT, 12, order=order, schedule=part("schedule", "dus"))[1]
        for order in ("confidence", "random", "left_to_right")
    ]
    assert traces[0].position == traces[1].position == traces[2].position
    assert traces[0].token == traces[1].token == traces[2].token


def test_passes_are_those_of_the_rounds() -> None:
    """Blocks of 32 in five passes: the order's control at 6.4 tokens per step."""
    model, costs = FakeDenoiser(seed=1), []
    canvas = new_canvas([PROMPT], ["a"], 64, model.mask_id)
    decode(model, canvas, make_sampler(64, block_length=32, schedule=part("schedule", "dus")), costs=costs)
    assert costs[0].mdm_passes == 2 * len(rounds_of(32)) == 10
