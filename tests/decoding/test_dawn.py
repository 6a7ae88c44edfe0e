"""DAWN against a slow reference written from the authors' code: one row, one position at a time."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas, part

from rws_cli.config.composing import compose
from rws_cli.decoding.record import Cost
from rws_cli.errors import UsageError

PROMPT, SEED, MASK = [1, 4, 2], 5, 11


def made(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.4 + 0.1 * (seed % 4)
    return model


def slow(model: FakeDenoiser, gen: int, block: int, s, seen: Counter) -> tuple[list[int], int]:
    """The completion and its passes. seen: counts why tokens were committed, or waited."""
    x, passes, start = [MASK] * gen, 0, len(PROMPT)
    for first in range(0, gen, block):
        while any(x[i] == MASK for i in range(first, first + block)):
            ids = torch.tensor([PROMPT + x])
            attention = torch.ones_like(ids, dtype=torch.bool)
            p = model.full_logits(ids, attention)[0].softmax(-1).tolist()
            weights = model.attended(ids, attention, s.layers)[1][0].tolist()
            length, passes = start + gen, passes + 1
            sinks = {j for j in range(length) if sum(weights[i][j] for i in range(length)) / length > s.sink}
            edges = {
                (i, j)
                for i in range(length)
                for j in range(length)
                if i != j and j not in sinks and weights[i][j] >= s.edge
            }
            inside = [i for i in range(start + first, start + first + block) if ids[0, i] == MASK]
            token = {i: max((t for t in range(12) if t != MASK), key=p[i].__getitem__) for i in inside}
            c = {i: p[i][token[i]] for i in inside}
            anchors = [j for j in range(length) if ids[0, j] != MASK and max(p[j]) >= s.threshold]
            sure = {i for i in inside if c[i] >= s.threshold}
            induced = {i for i in inside if c[i] >= s.induced and any((i, j) in edges for j in anchors)}
            waits = {i for i in inside if any((i, j) in edges for j in sure & induced)}
            nodes = {i for i in inside if c[i] >= s.low} - sure - induced
            free, chosen = nodes - waits, set()
            for i in sorted(free, key=lambda i: (-c[i], i)):
                if not any((i, j) in edges or (j, i) in edges for j in chosen):
                    chosen.add(i)
            seen.update(sure=len(sure), induced=len(induced - sure), waits=len(nodes & waits), sinks=len(sinks))
            seen.update(chosen=len(chosen), conflicts=len(free - chosen), several=len(chosen) > 1)
            commits = sure | induced | chosen
            if not commits:
                seen["forced"] += 1
                commits = {min(inside, key=lambda i: (-c[i], i))}
            for i in commits:
                x[i - start] = token[i]
    return x, passes


SETTINGS = {"threshold": 0.6, "induced": 0.4, "low": 0.35, "edge": 0.085, "sink": 0.1}


def test_dawn() -> None:
    seen: Counter = Counter()
    schedule = part("schedule", "dawn", **SETTINGS)
    for seed in range(8):
        for gen, block in ((8, 8), (12, 4), (9, 9)):
            expected, passes = slow(made(seed), gen, block, schedule, seen)
            canvas, costs = new_canvas([PROMPT], ["e"], gen, MASK, 0, SEED), [Cost()]
            decode(made(seed), canvas, make_sampler(gen, block_length=block, schedule=schedule), costs=costs)
            assert canvas.completion_BG[0].tolist() == expected
            assert costs[0].mdm_passes == passes
    rules = ("sure", "induced", "waits", "sinks", "chosen", "conflicts", "several", "forced")
    assert all(seen[name] for name in rules), seen


def test_only_tokens_of_the_completion_are_written() -> None:
    """The trap: the authors' code goes on choosing when no independent position is left, and overwrites the first column."""
    model, canvas = made(0), new_canvas([PROMPT], ["e"], 8, MASK, 0, SEED)
    decode(model, canvas, make_sampler(8, schedule=part("schedule", "dawn", **SETTINGS)))
    assert all(tokens[0, : len(PROMPT)].tolist() == PROMPT for tokens in model.calls)


def test_without_dependencies_it_is_a_threshold() -> None:
    """No edge: tokens above the lowest threshold are all independent."""
    for seed in range(3):
        plain, dawn = (new_canvas([PROMPT], ["e"], 9, MASK, 0, SEED) for _ in range(2))
        decode(made(seed), plain, make_sampler(9, schedule=part("schedule", "threshold", threshold=0.35)))
        settings = SETTINGS | {"edge": 1.0}
        decode(made(seed), dawn, make_sampler(9, schedule=part("schedule", "dawn", **settings)))
        assert torch.equal(plain.completion_BG, dawn.completion_BG)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.attention=sdpa", "which model.attention=sdpa does not return: set model.attention=eager"),
        ("sampler.cfg_scale=1", "of one pass, so it does not work with classifier-free guidance"),
        ("runtime.speculate=2", "its steps also read attention weights"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    compose("sampler=dawn", "model.attention=eager")
    with pytest.raises(UsageError, match=message):
        compose("sampler=dawn", "model.attention=eager", setting)
