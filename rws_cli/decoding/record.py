"""What decoding leaves behind of each row: what it cost, and which token came when."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LAST = 1 << 62
"""A step after all others."""


@dataclass
class Cost:
    """What one row has cost. Tokens are those put through a model, padding not counted, and
    thrice where a gradient is taken; seconds are the row's share."""

    mdm_passes: int = 0
    mdm_tokens: int = 0
    mdm_seconds: float = 0.0
    reward_calls: int = 0
    reward_cache_hits: int = 0
    reward_tokens: int = 0
    reward_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class RowTrace:
    """One entry a committed token, in the order of commits (positions ascending within a step). Where a method masks
    tokens again, a position has an entry for each time that it was committed.

    confidence: the proposed token's probability under the guided, untempered softmax. reward: the raw score at that
    step and scale: what it made of the logits (both None without reward guidance). pairs, reversals: pairs of positions
    open at that step, and those whose order the scale turned around; changed_selection: whether it committed other positions
    than a scale of 1 would have (all None where nothing scales). remasked_at: the step before which the token was masked
    again; None if it stayed. near_tie: whether a last bit of the model's dtype could have decided otherwise (see
    Ranker.near_ties). recorded: what else the guidance recorded, by name; None where it recorded no number.
    """

    step: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    reward: list[float | None] = field(default_factory=list)
    scale: list[float | None] = field(default_factory=list)
    pairs: list[int | None] = field(default_factory=list)
    reversals: list[int | None] = field(default_factory=list)
    changed_selection: list[bool | None] = field(default_factory=list)
    remasked_at: list[int | None] = field(default_factory=list)
    near_tie: list[bool] = field(default_factory=list)
    recorded: dict[str, list[float | None]] = field(default_factory=dict)

    def commit(
        self,
        *,
        step: int,
        position: int,
        token: int,
        confidence: float,
        near_tie: bool,
        guidance: dict[str, float],
        **compared: int,
    ) -> None:
        """Add an entry."""
        self.step.append(step)
        self.position.append(position)
        self.token.append(token)
        self.confidence.append(confidence)
        self.near_tie.append(near_tie)
        self.reward.append(guidance.pop("reward", None))
        self.scale.append(guidance.pop("scale", None))
        self.pairs.append(compared.get("pairs"))
        self.reversals.append(compared.get("reversals"))
        self.changed_selection.append(bool(compared["changed_selection"]) if compared else None)
        self.remasked_at.append(None)
        for name in self.recorded.keys() | guidance.keys():
            if name not in self.recorded:
                self.recorded[name] = [None] * (len(self.step) - 1)
            value = guidance.get(name, math.nan)
            self.recorded[name].append(value if math.isfinite(value) else None)

    def until(self, step: int) -> RowTrace:
        """A copy, as far as a step."""
        n = sum(s <= step for s in self.step)
        lists = {name: values[:n] for name, values in vars(self).items() if isinstance(values, list)}
        copy = RowTrace(**lists, recorded={name: values[:n] for name, values in self.recorded.items()})
        copy.remasked_at = [again if again is not None and again <= step else None for again in copy.remasked_at]
        return copy

    def mask(self, position: int, step: int) -> None:
        """Note that the token at a position is a mask again before a step."""
        last = len(self.position) - 1 - self.position[::-1].index(position)
        self.remasked_at[last] = step


def record_commits(traces: list[RowTrace], found: dict[str, Any], numbers: list[int]) -> None:
    """Add what a step committed to the traces of all rows; numbers: of each row's step."""
    guided = {name.removeprefix("guidance."): x for name, x in found.items() if name.startswith("guidance.")}
    compared = [name for name in ("pairs", "reversals", "changed_selection") if name in found]
    for row, position in zip(*np.nonzero(found["chosen"]), strict=True):
        at = (row, position)
        traces[row].commit(
            step=numbers[row],
            position=int(position),
            token=int(found["token"][at]),
            confidence=float(found["confidence"][at]),
            near_tie=bool(found["near_tie"][at]),
            guidance={name: float(x[at] if x.ndim > 1 else x[row]) for name, x in guided.items()},
            **{name: int(found[name][row]) for name in compared},
        )


def record_remasks(traces: list[RowTrace], again_BG: Any, numbers: list[int]) -> None:
    """Note in the traces of all rows that tokens are masked again before steps of these numbers."""
    if again_BG is not None:
        for row, position in zip(*np.nonzero(again_BG), strict=True):
            traces[row].mask(int(position), numbers[row])


@contextmanager
def charge(costs: Sequence[Cost], rows: list[int], name: str) -> Iterator[None]:
    """Divide the seconds spent inside equally among `rows`."""
    started = time.perf_counter()
    yield
    share = (time.perf_counter() - started) / max(len(rows), 1)
    for row in rows:
        setattr(costs[row], name, getattr(costs[row], name) + share)
