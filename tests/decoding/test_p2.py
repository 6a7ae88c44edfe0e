"""P2 against a slow decoder that follows the authors' code."""

from __future__ import annotations

import pytest
from remasking_reference import MASK, decoded, likeliest, probabilities, toy
from support import FakeDenoiser


def slowly(model: FakeDenoiser, length: int, block: int, steps: int) -> tuple[list[int], int, int, int]:
    """steps: of a block. The completion, passes, tokens masked again, and how often a token stayed where another one was
    proposed."""
    x, passes, again, stayed = [MASK] * length, 0, 0, 0
    for start in range(0, length, block):
        places = range(start, start + block)
        for i in range(steps):
            if all(x[n] != MASK for n in places):
                break
            p = probabilities(model, x)
            passes += 1
            proposed = {n: likeliest(model, p[n]) for n in places}
            ascending = sorted(places, key=lambda n: (p[n][proposed[n]], -n))
            masks = ascending[: block * (steps - 1 - i) // steps]
            for n in places:
                if n in masks:
                    again += x[n] != MASK
                    x[n] = MASK
                elif x[n] == MASK:
                    x[n] = proposed[n]
                else:
                    stayed += x[n] != proposed[n]
    return x, passes, again, stayed


@pytest.mark.parametrize(
    ("length", "block", "steps"), [(9, 9, 9), (12, 12, 5), (12, 4, 4), (12, 6, 4), (6, 6, 14), (9, 3, 1)]
)
def test_p2_decodes_as_published(length: int, block: int, steps: int) -> None:
    again = stayed = 0
    for seed in range(3):
        model = toy(seed)
        expected, passes, *counts = slowly(model, length, block, steps)
        found = decoded(model, length, "p2", {}, block_length=block, steps=steps * (length // block))
        assert found.tokens == expected
        assert found.cost.mdm_passes == found.cost.mdm_rows == passes
        assert sum(step is not None for step in found.trace.remasked_at) == counts[0]
        again, stayed = again + counts[0], stayed + counts[1]
    assert (again > 0) == (steps > 1)
    assert steps == 1 or stayed > 0  # a committed token is masked again, never replaced
