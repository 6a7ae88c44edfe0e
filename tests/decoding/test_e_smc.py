"""E-SMC and E-BoN against a slow reference written from the authors' rule: one particle, one position at a time."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from support import FakeDenoiser, make_sampler, new_canvas, part, search

from rws_cli.config.composing import compose
from rws_cli.decoding.noise import mix, row_key, uniform
from rws_cli.decoding.prediction import GUMBEL, PURPOSES
from rws_cli.errors import UsageError
from rws_cli.search.base import RESAMPLE

PROMPT, SEED, G = [1, 4, 2], 5, 6


@cache
def numbers(key: int, step: int, position: int) -> list[float]:
    """The runner's uniform numbers, so that both draw the same."""
    return uniform(torch.tensor([key]), step, torch.tensor([position]), 12)[0].tolist()


def number(key: int, step: int, position: int, token: int) -> float:
    return numbers(key, step, position)[token]


def names(count: int) -> list[str]:
    return ["e", *(f"e particle {j}" for j in range(1, count))]


def laws(model: FakeDenoiser, x: list[int | None]) -> dict[int, list[float]]:
    """p at each masked position; the mask token has no share of it."""
    ids = torch.tensor([PROMPT + [model.mask_id if t is None else t for t in x]])
    logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :]
    found = {}
    for i in (i for i in range(G) if x[i] is None):
        weights = [0.0 if t == model.mask_id else math.exp(z) for t, z in enumerate(logits[i].tolist())]
        found[i] = [w / sum(weights) for w in weights]
    return found


def certainty(model: FakeDenoiser, x: list[int | None]) -> float:
    """1 − mean entropy of the masks / log V, in bits as the authors count."""
    entropies = [-sum(q * math.log2(q) for q in p if q > 0) for p in laws(model, x).values()]
    return (math.log2(model.vocabulary) - sum(entropies) / len(entropies)) / math.log2(model.vocabulary)


def slow(model: FakeDenoiser, method, block: int) -> tuple[list[int | None], list[float], int]:
    """The completion that is returned, the score of each particle, and how often resampling changed the particles."""
    k, keys = method.particles, [row_key(SEED, name) for name in names(method.particles)]
    particles: list[tuple[list[int | None], list[float]]] = [([None] * G, []) for _ in range(k)]
    changed = 0
    for step in range(G):
        for x, path in particles:
            path.append(certainty(model, x))
        if method.every and step and step % method.every == 0:
            scaled = [method.strength * path[-1] for _, path in particles]
            g = [math.exp(s) if method.potential == "exponential" else s + 1 for s in scaled]
            w = [math.exp(one - max(g)) for one in g]
            key, drawn = int(mix(torch.tensor([keys[0]]) + RESAMPLE)[0]), []
            for n in range(k):
                u, passed = number(key, step, 0, n) * sum(w), 0.0
                for j, share in enumerate(w):
                    passed += share
                    if u <= passed:
                        drawn.append(j)
                        break
            changed += drawn != list(range(k))
            particles = [(list(particles[j][0]), list(particles[j][1])) for j in drawn]
        inside = range(step // block * block, (step // block + 1) * block)
        for (x, _), key in zip(particles, keys, strict=True):
            best, token = -1, {}
            at = {i: p for i, p in laws(model, x).items() if i in inside}
            for i, p in at.items():
                noisy = [
                    math.log(q) - math.log(-math.log(number(key, step * PURPOSES + GUMBEL, i, t))) if q else -math.inf
                    for t, q in enumerate(p)
                ]
                token[i] = max(range(len(p)), key=noisy.__getitem__)
                if best < 0 or p[token[i]] > at[best][token[best]]:
                    best = i
            x[best] = token[best]
    scores = [sum(path) / len(path) for _, path in particles]
    chosen = max(range(k), key=scores.__getitem__)
    return particles[chosen][0], scores, changed


SETTINGS = [
    {"particles": 4, "every": 1},
    {"particles": 3, "every": 2, "strength": 60.0},
    {"particles": 4, "every": 2, "strength": 40.0, "potential": "linear"},
    {"particles": 4, "every": None},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_e_smc_is_its_specification(settings: dict) -> None:
    method, changes = part("search", "e_smc", **settings), 0
    for seed, block in ((0, 6), (1, 3)):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.4
        expected, scores, changed = slow(model, method, block)
        changes += changed
        canvas = new_canvas([PROMPT] * method.particles, names(method.particles), G, model.mask_id, 0, SEED)
        sampler = make_sampler(G, block_length=block, temperature=1.0, search=method)
        found = search(model, canvas, sampler)
        assert canvas.completion_BG[found.rows[0]].tolist() == expected
        assert found.scores[0] == pytest.approx(scores)
    assert bool(changes) == (method.every is not None)


def test_the_winner_is_not_simply_the_first_particle() -> None:
    """The trap: finished particles have no masks, so the entropy of their last state would always choose the first."""
    method, chosen = part("search", "e_smc", particles=4, every=None), set()
    for seed in range(4):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.4
        canvas = new_canvas([PROMPT] * 4, names(4), G, model.mask_id, 0, seed)
        found = search(model, canvas, make_sampler(G, temperature=1.0, search=method))
        assert found.scores[0][found.rows[0]] == max(found.scores[0])
        chosen.add(found.rows[0])
    assert len(chosen) > 1


def test_particles_must_commit_alike_where_they_are_compared_midway() -> None:
    settings = ["sampler=e_smc", "sampler.schedule.kind=threshold"]
    with pytest.raises(UsageError, match=r"search.kind=e_smc needs particles that commit alike"):
        compose(*settings)
    compose(*settings, "sampler.search.every=null")
