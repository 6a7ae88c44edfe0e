"""What a benchmark is: examples to answer, and a rule that marks an answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """One question.

    id: stable name, unique in its benchmark; random streams and resume key on it.
    prompt: the user's turn, before the chat template.
    reference: a right answer, as the model would write it.
    """

    id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Mark:
    """How an answer was marked.

    correct: whether the answer passes.
    partial: the share of it that is right, in [0, 1]; 1 exactly where every part is.
    extracted: what was read off the answer and compared ("" if nothing could be read).
    """

    correct: bool
    partial: float
    extracted: str


class Benchmark(Protocol):
    """Examples and a marker; `name` and `version` go into the manifest."""

    name: str
    version: int

    def __init__(self, limit: int, seed: int = 0, split: Split = "test") -> None: ...

    def examples(self) -> list[Example]: ...

    def mark(self, example: Example, answer: str) -> Mark: ...


def held_out(key: str, one_in: int = 8) -> bool:
    """Whether `key` belongs to the test split: one key in `one_in`, by SHA-256, for ever."""
    return hashlib.sha256(key.encode()).digest()[0] % one_in == 0
