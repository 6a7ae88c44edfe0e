"""A finished run's scales, given to a new one: is it the reward's content that matters, or only the temperature?

Reward-Weighted Sampling multiplies the logits by r_t(x), which follows the text. Replayed, the same numbers come
without it: each example's own (which must give the same tokens again), their mean, their mean at each step, or those
of another example. If these do as well as the reward did, temperature explains it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Scales = dict[int, float]
"""Step → r, at the steps that committed something."""


def own(recorded: dict[str, Scales], seed: int) -> dict[str, Scales]:
    return recorded


def constant(recorded: dict[str, Scales], seed: int) -> dict[str, Scales]:
    """The mean over all steps of all examples."""
    everything = [r for scales in recorded.values() for r in scales.values()]
    mean = sum(everything) / len(everything)
    return {i: {0: mean} for i in recorded}


def schedule(recorded: dict[str, Scales], seed: int) -> dict[str, Scales]:
    """At each step the mean over the examples that came to it."""
    by_step: dict[int, list[float]] = {}
    for scales in recorded.values():
        for step, r in scales.items():
            by_step.setdefault(step, []).append(r)
    means = {step: sum(found) / len(found) for step, found in by_step.items()}
    return dict.fromkeys(recorded, means)


def shuffled(recorded: dict[str, Scales], seed: int) -> dict[str, Scales]:
    """Another example's, never its own: everybody passes theirs on along one circle."""
    circle = sorted(recorded)
    random.Random(f"replay {seed}").shuffle(circle)
    return {i: recorded[giver] for giver, i in zip(circle, [*circle[1:], circle[0]], strict=True)}


REPLAYS: dict[str, Callable[[dict[str, Scales], int], dict[str, Scales]]] = {
    "own": own,
    "constant": constant,
    "schedule": schedule,
    "shuffled": shuffled,
}


def scale_at(scales: Scales, step: int) -> float:
    """r at a step; where none was recorded, that of the last step before it, or of the first."""
    before = [s for s in scales if s <= step]
    return scales[max(before) if before else min(scales)]
