"""Tolerator against a slow reference written from the authors' code: one row, one position at a time."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas, part

from rws_cli.config.composing import compose
from rws_cli.decoding.noise import row_key, uniform
from rws_cli.decoding.prediction import GUMBEL, ORDER, PURPOSES, REMASK
from rws_cli.decoding.record import Cost
from rws_cli.errors import UsageError

EXAMPLE, SEED, PROMPT = "example-3", 5, [1, 4, 2]
KEY = torch.tensor([row_key(SEED, EXAMPLE)])


@cache
def numbers(step: int, position: int) -> list[float]:
    """The runner's uniform numbers, so that both draw the same."""
    return uniform(KEY, step, torch.tensor([position]), 12)[0].tolist()


def number(step: int, position: int, counter: int) -> float:
    return numbers(step, position)[counter]


def made(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.5
    return model


class Slow:
    """One row; −1 is a mask. locked: positions that stay; streak: (last token, updates in a row) of each position."""

    def __init__(self, model: FakeDenoiser, gen: int, block: int, temperature: float, schedule) -> None:
        self.model, self.gen, self.block, self.temperature, self.s = model, gen, block, temperature, schedule
        self.x, self.passes = [-1] * gen, 0
        self.locked: set[int] = set()
        self.streak: dict[int, tuple[int, int]] = {}

    def logits(self) -> list[list[float]]:
        ids = torch.tensor([PROMPT + [self.model.mask_id if t < 0 else t for t in self.x]])
        self.passes += 1
        return self.model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :].tolist()

    def token(self, z: list[float], temperature: float, step: int, i: int) -> int:
        legal = [t for t in range(len(z)) if t != self.model.mask_id]
        if temperature == 0:
            return max(legal, key=lambda t: z[t])
        u = [number(step * PURPOSES + GUMBEL, i, t) for t in legal]
        return max(legal, key=lambda t: z[t] / temperature - math.log(-math.log(u[t])))

    def fill(self, where: range, first: int, per_step: int) -> int:
        steps = math.ceil(len(where) / per_step)
        quota = [len(where) // steps + (n < len(where) % steps) for n in range(steps)]
        for n, count in enumerate(quota):
            logits, seen = self.logits(), []
            for i in (i for i in where if self.x[i] < 0):
                z = list(logits[i])
                z[self.model.eos_ids[0]] /= self.s.end_penalty
                token = self.token(z, self.temperature, first + n, i)
                weights = [math.exp(v) for v in z]
                seen.append((-weights[token] / sum(weights), i, token))
            for _, i, token in sorted(seen)[:count]:
                self.x[i] = token
        return first + steps

    def ratio(self, n: int) -> float:
        s = self.s
        if s.rounds <= 1:
            return s.last_share
        t = n / (s.rounds - 1)
        if s.decay == "cosine":
            return s.last_share + (s.first_share - s.last_share) * 0.5 * (1 + math.cos(math.pi * t))
        return s.first_share * (s.last_share / s.first_share) ** t

    def refine(self, where: range, first: int) -> None:
        temperature = self.s.temperature or self.temperature
        for n in range(self.s.rounds):
            free = [i for i in where if i not in self.locked]
            if not free:
                return
            retained = int(len(free) * (1.0 - self.ratio(n)))
            step = first + n
            by_chance = sorted(free, key=lambda i: -number(step * PURPOSES + ORDER, i, REMASK))
            masks = sorted(by_chance[: len(free) - retained])
            if not masks:
                continue
            for i in masks:
                self.x[i] = -1
            logits = self.logits()
            for i in masks:
                token = self.token(logits[i], temperature, step, i)
                last, count = self.streak.get(i, (-1, 0))
                self.streak[i] = (token, count + 1 if token == last else 1)
                self.x[i] = token
                if self.s.settled and self.streak[i][1] >= self.s.settled:
                    self.locked.add(i)

    def run(self, per_step: int) -> list[int]:
        steps = math.ceil(self.block / per_step) + self.s.rounds
        for b in range(self.gen // self.block):
            where = range(b * self.block, (b + 1) * self.block)
            self.refine(where, self.fill(where, b * steps, per_step))
        return self.x


CASES = [
    (8, 8, 1, 0.0, {"rounds": 6, "temperature": None}),
    (8, 8, 3, 0.0, {"rounds": 9, "temperature": None, "settled": 2}),
    (12, 4, 2, 0.5, {"rounds": 5, "settled": 2}),
    (9, 9, 4, 0.9, {"rounds": 7, "settled": 3, "decay": "exponential", "first_share": 1.0, "last_share": 0.1}),
    (8, 4, 2, 0.7, {"rounds": 1, "settled": None, "temperature": None, "end_penalty": 3.0}),
    (6, 6, 2, 0.5, {"rounds": 0}),
]


@pytest.mark.parametrize(("gen", "block", "per_step", "temperature", "settings"), CASES)
def test_tolerator(gen: int, block: int, per_step: int, temperature: float, settings: dict) -> None:
    schedule = part("schedule", "tolerator", **settings)
    for seed in range(2):
        slow = Slow(made(seed), gen, block, temperature, schedule)
        expected = slow.run(per_step)
        canvas, costs = new_canvas([PROMPT], [EXAMPLE], gen, 11, 0, SEED), [Cost()]
        sampler = make_sampler(
            gen, block_length=block, tokens_per_step=per_step, temperature=temperature, schedule=schedule
        )
        (trace,) = decode(made(seed), canvas, sampler, costs=costs)
        assert canvas.completion_BG[0].tolist() == expected
        assert costs[0].mdm_passes == slow.passes
        if schedule.rounds > 1:
            assert any(at is not None for at in trace.remasked_at)


def test_a_token_of_the_first_fill_does_not_count_as_a_round() -> None:
    """The trap: with settled=1, each position is masked until a round has given it a token, not until it is filled."""
    schedule = part("schedule", "tolerator", rounds=9, settled=1, temperature=None)
    canvas, costs = new_canvas([PROMPT], [EXAMPLE], 8, 11, 0, SEED), [Cost()]
    sampler = make_sampler(8, tokens_per_step=4, schedule=schedule)
    (trace,) = decode(made(0), canvas, sampler, costs=costs)
    assert sorted(trace.position) == sorted(list(range(8)) * 2)
    assert costs[0].mdm_passes < 2 + 9  # the block ends when all have settled


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampler.temperature=0", "schedule.temperature=0.3 has no effect with sampler.temperature=0: set it to null"),
        ("sampler.schedule={first_share: 0.0, decay: exponential}", "cannot be reached from first_share=0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    compose("sampler=tolerator")
    with pytest.raises(UsageError, match=message):
        compose("sampler=tolerator", setting)
