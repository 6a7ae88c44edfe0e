"""RCR against a slow decoder that follows the authors' code, and against it with blocks that stay as they are."""

from __future__ import annotations

import pytest
from remasking_reference import MASK, decoded, likeliest, probabilities, toy
from support import FakeDenoiser


def slowly(
    model: FakeDenoiser, length: int, block: int, steps: int, window: int | None = None
) -> tuple[list[int], int, int, int]:
    """steps: of a block. The completion, passes, tokens that stayed for a step and are masked again, and those of them in
    earlier blocks."""
    x, running = [MASK] * length, [1.0] * length
    passes = again = earlier = 0
    for start in range(0, length, block):
        first = 0 if window is None else max(0, start - (window - 1) * block)
        for i in range(steps):
            p, before = probabilities(model, x), list(x)
            passes += 1
            for n in range(start + block):
                if x[n] == MASK:
                    x[n] = likeliest(model, p[n])
                    running[n] = p[n][x[n]]
            masks = block * (steps - 1 - i) // steps
            if masks == 0:
                break
            for n in sorted(range(first, start + block), key=lambda n: (running[n], -n))[:masks]:
                x[n] = MASK
                again += before[n] != MASK
                earlier += before[n] != MASK and n < start
    return x, passes, again, earlier


@pytest.mark.parametrize(
    ("length", "block", "steps", "window"),
    [(9, 9, 9, None), (12, 12, 5, None), (12, 4, 4, None), (12, 4, 3, 1), (12, 3, 3, 2), (9, 9, 1, None)],
)
def test_rcr_decodes_as_published(length: int, block: int, steps: int, window: int | None) -> None:
    revised = earlier = 0
    for seed in range(3):
        model = toy(seed)
        expected, passes, again, of_them = slowly(model, length, block, steps, window)
        found = decoded(model, length, "rcr", {"window": window}, block_length=block, steps=steps * (length // block))
        assert found.tokens == expected
        assert found.cost.mdm_passes == found.cost.mdm_rows == passes
        assert sum(step is not None for step in found.trace.remasked_at) == again
        revised, earlier = revised + again, earlier + of_them
    assert (revised > 0) == (steps > 1)
    assert (earlier > 0) == (block < length and window != 1)
