"""The interface of rewards, and the statistics that normalize their scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rws_cli.benchmarks.base import Example
from rws_cli.decoding.guidance import Statistics
from rws_cli.errors import UsageError


@dataclass(frozen=True)
class Candidate:
    """A whole or intermediate answer: its text (masks filled, dropped or kept), the share of it that is committed,
    the decoding step (−1 for a finished answer), and its text as far as the end of each block if it has several.

    slot: the same for successive texts of one answer, by which a reward may find what it kept of the last.
    """

    example: Example
    text: str
    filled: float
    step: int
    blocks: tuple[str, ...] = ()
    slot: int | None = None


@dataclass(frozen=True)
class Scores:
    """A score for each candidate, and the tokens that went through a model to get it (0 where none did)."""

    values: list[float]
    tokens: list[int]


class Reward(Protocol):
    """statistics is None where none were stored; then only sampler.guidance.normalize=none can use the reward."""

    statistics: Statistics | None

    def score(self, candidates: list[Candidate]) -> Scores: ...

    def forget(self) -> None:
        """Drop what was kept of earlier texts: other answers take their slots."""
        return


def read_statistics(path: Path, key: str) -> dict[str, Any]:
    """A normalization file. Raises UsageError naming `key` if it is missing or lacks a field."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{key}: there are no normalization statistics at {path}.") from error
    except ValueError as error:
        raise UsageError(f"{key}: {path} is not JSON: {error}.") from error
    if missing := [name for name in ("mean", "std", "min", "max") if name not in stored]:
        raise UsageError(f"{key}: {path} lacks {', '.join(missing)}.")
    return stored


def as_statistics(stored: dict[str, Any]) -> Statistics:
    return Statistics(*(float(stored[name]) for name in ("mean", "std", "min", "max")))
