"""CORE and its control against a slow decoder that follows the authors' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
from remasking_reference import MASK, decoded, likeliest, margin, probabilities, toy
from support import FakeDenoiser


def slowly(
    model: FakeDenoiser, length: int, block: int, steps: int, rule: str, settings: dict[str, Any]
) -> tuple[list[int], int, list[tuple[int, int, int | None]]]:
    """steps: of a block. The completion, passes, and (position, token, token before) of each commit and revision."""
    every, checked, protected, most, least = settings.values()
    x, passes, trace = [MASK] * length, 0, []
    for start in range(0, length, block):
        places = range(start, start + block)
        for i in range(steps):
            p = probabilities(model, x)
            passes += 1
            quota = block // steps + (i < block % steps)
            revised: dict[int, int] = {}
            if i % every == 0 and int(0.25 * steps) <= i < int(0.75 * steps):
                open_to_doubt = [n for n in range(start, max(start, start + block - protected)) if x[n] != MASK]
                doubtful = sorted(open_to_doubt, key=lambda n: (margin(p[n]), n))[:checked]
                if doubtful:
                    q = probabilities(model, [MASK if n in doubtful else token for n, token in enumerate(x)])
                    passes += 1
                    score = {}
                    for n in doubtful:
                        other = likeliest(model, q[n])
                        if rule == "margin":
                            score[n] = -margin(q[n])
                        elif other != x[n] and q[n][other] >= least:
                            score[n] = -math.log(q[n][x[n]])
                    worst = sorted(score, key=lambda n: (-score[n], n))[: min(most, quota)]
                    revised = {n: likeliest(model, q[n]) for n in worst}
            masked = [n for n in places if x[n] == MASK]
            best = sorted(masked, key=lambda n: (-p[n][likeliest(model, p[n])], n))[:quota]
            for n in sorted([*best, *revised]):
                token = revised.get(n, likeliest(model, p[n]))
                if token != x[n]:
                    trace.append((n, token, None if x[n] == MASK else x[n]))
                x[n] = token
    return x, passes, trace


CASES = [
    (12, 12, 12, {"every": 2, "checked": 3, "protected": 4, "most": 1, "least": 0.3}),
    (12, 12, 6, {"every": 1, "checked": 32, "protected": 0, "most": 3, "least": 0.0}),
    (12, 6, 6, {"every": 1, "checked": 2, "protected": 1, "most": 2, "least": 0.3}),
    (12, 12, 12, {"every": 8, "checked": 32, "protected": 16, "most": 1, "least": 0.3}),
]
"""Length, block, steps of a block, settings; the first two are quick."""


@pytest.mark.parametrize("rule", ["core", "margin"])
@pytest.mark.parametrize(
    ("length", "block", "steps", "settings"),
    [pytest.param(*case, marks=[] if n < 2 else pytest.mark.slow) for n, case in enumerate(CASES)],
)
def test_core_decodes_as_published(length: int, block: int, steps: int, settings: dict[str, Any], rule: str) -> None:
    revised = extra = 0
    for seed in range(3):
        model = toy(seed)
        expected, passes, trace = slowly(model, length, block, steps, rule, settings)
        found = decoded(
            model, length, "core", {"rule": rule, **settings}, block_length=block, steps=steps * (length // block)
        )
        assert found.tokens == expected
        assert list(zip(found.trace.position, found.trace.token, found.trace.edited_from, strict=True)) == trace
        assert found.cost.mdm_passes == found.cost.mdm_rows == passes
        revised += sum(before is not None for *_, before in trace)
        extra += passes - steps * (length // block)
    assert (extra > 0) == (settings["protected"] < block)
    assert (revised > 0) == (settings["protected"] < block)
