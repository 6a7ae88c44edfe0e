"""Records of each row: its cost, and its trace of committed tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAST = 1 << 62
"""A step number above all others."""


@dataclass
class Cost:
    """The cost of one row.

    Tokens are those that go through a model, without padding; a gradient step counts three times. Seconds are the row's
    share of its batch. mdm_passes: passes one after the other; mdm_rows: canvases in them, several where steps are drafted or
    look ahead.
    """

    mdm_passes: int = 0
    mdm_tokens: int = 0
    mdm_seconds: float = 0.0
    reward_calls: int = 0
    reward_cache_hits: int = 0
    reward_tokens: int = 0
    reward_seconds: float = 0.0
    seconds: float = 0.0
    mdm_rows: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class RowTrace:
    """One entry per committed token, in the order of commits (positions ascending within a step). A position that was
    remasked has an entry for each time that it was committed.

    step: counts from 0. confidence: the token's probability under the guided, untempered softmax. reward, scale: the raw
    score at the step, and what multiplied the logits; None without such guidance. pairs, reversals: pairs of positions open
    at the step, and those whose order the scale reversed; changed_selection: whether the step committed other positions
    than at scale 1; all three None where nothing scales. remasked_at: the step before which the token was masked again;
    None if it stayed. near_tie: whether rounding in the model's dtype could have decided otherwise (Ranker.near_ties).
    edited_from: the token that this one replaced; None for a commit at a mask. recorded: other values that the guidance
    recorded, by name; None where it recorded no number.
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
    edited_from: list[int | None] = field(default_factory=list)
    recorded: dict[str, list[float | None]] = field(default_factory=dict)

    def commit(
        self,
        *,
        step: int,
        position: int,
        token: int,
        confidence: float,
        near_tie: bool,
        edited_from: int = -1,
        guidance: dict[str, float],
        **compared: int,
    ) -> None:
        """Add an entry."""
        self.step.append(step)
        self.position.append(position)
        self.token.append(token)
        self.confidence.append(confidence)
        self.near_tie.append(near_tie)
        self.edited_from.append(None if edited_from < 0 else edited_from)
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
        """Record that the token at a position was remasked before a step."""
        last = len(self.position) - 1 - self.position[::-1].index(position)
        self.remasked_at[last] = step


@dataclass
class Completion:
    """A finished completion. number: of its prompt, not counting particles; tokens: of its own length; cost: of all its
    particles; scores: of each particle, empty without a search; particle: the chosen one."""

    number: int
    tokens: list[int]
    trace: RowTrace
    cost: Cost
    scores: list[float]
    particle: int = 0


def to_host(record: dict[str, Tensor | None]) -> dict[str, Any]:
    """The tensors of a record as float64 arrays, in one transfer; without those that are None."""
    values = {name: value for name, value in record.items() if value is not None}
    flat = torch.cat([value.double().flatten() for value in values.values()]).cpu().numpy()
    ends = np.cumsum([value.numel() for value in values.values()])
    return {
        name: part.reshape(tuple(value.shape))
        for (name, value), part in zip(values.items(), np.split(flat, ends[:-1]), strict=True)
    }


def record_commits(traces: list[RowTrace], on_host: dict[str, Any], numbers: list[int]) -> None:
    """Add the tokens that a step committed to the traces. numbers: each row's step number."""
    guided = {name.removeprefix("guidance."): x for name, x in on_host.items() if name.startswith("guidance.")}
    edited_from = on_host.get("edited_from")
    compared = [name for name in ("pairs", "reversals", "changed_selection") if name in on_host]
    for row, position in zip(*np.nonzero(on_host["chosen"]), strict=True):
        index = (row, position)
        traces[row].commit(
            step=numbers[row],
            position=int(position),
            token=int(on_host["token"][index]),
            confidence=float(on_host["confidence"][index]),
            near_tie=bool(on_host["near_tie"][index]),
            edited_from=-1 if edited_from is None else int(edited_from[index]),
            guidance={name: float(x[index] if x.ndim > 1 else x[row]) for name, x in guided.items()},
            **{name: int(on_host[name][row]) for name in compared},
        )


def record_remasks(traces: list[RowTrace], again_BG: Any, numbers: list[int]) -> None:
    """Record in the traces that tokens are masked again before each row's step of these numbers."""
    if again_BG is not None:
        for row, position in zip(*np.nonzero(again_BG), strict=True):
            traces[row].mask(int(position), numbers[row])


def shift_positions(traces: list[RowTrace], inserted_at_B: Any, inserted_B: Any) -> None:
    """Move the positions behind tokens that were put into completions: a trace has the positions of the final completion."""
    for row in np.flatnonzero(() if inserted_B is None else inserted_B):
        first, count, trace = int(inserted_at_B[row]), int(inserted_B[row]), traces[row]
        trace.position = [position + count if position >= first else position for position in trace.position]


@contextmanager
def charge(costs: Sequence[Cost], rows: list[int], name: str) -> Iterator[None]:
    """Divide the seconds spent inside equally among these rows."""
    started = time.perf_counter()
    yield
    share = (time.perf_counter() - started) / max(len(rows), 1)
    for row in rows:
        setattr(costs[row], name, getattr(costs[row], name) + share)
