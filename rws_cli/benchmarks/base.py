"""What a benchmark is: examples to answer, and a rule that marks an answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

Row = dict[str, Any]
"""A line of a data set, its fields by name."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """One question.

    id: stable name, unique in its benchmark; random streams and resume key on it.
    prompt: the user's turn, before the chat template.
    reference: a right answer, as the model would write it.
    row: what the data set says besides; empty for generated examples.
    """

    id: str
    prompt: str
    reference: str
    row: Row = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Mark:
    """How an answer was marked.

    correct: whether the answer passes.
    partial: the share of it that is right, in [0, 1]; 1 exactly where every part is.
    extracted: what was read off the answer and compared ("" if nothing could be read).
    extractor: the rule that read it.
    """

    correct: bool
    partial: float
    extracted: str
    extractor: str


class Benchmark(Protocol):
    """Examples and a marker; `name` and `version` go into the manifest."""

    name: str
    version: int

    def examples(self) -> list[Example]: ...

    def mark(self, example: Example, answer: str) -> Mark: ...


class Generated(Benchmark):
    """Examples from a seeded generator: example i depends on (split, seed, i) alone, so any limit sees the same first
    ones. A benchmark adds its name, version, `make` (random numbers, split → prompt, answer) and `mark`."""

    make: Callable[[random.Random, Split], tuple[str, str]]

    def __init__(self, limit: int, seed: int = 0, split: Split = "test") -> None:
        self.limit, self.seed, self.split = limit, seed, split

    def examples(self) -> list[Example]:
        return [self._example(self.seed, index, self.split) for index in range(self.limit)]

    @classmethod
    @lru_cache(maxsize=4096)
    def _example(cls, seed: int, index: int, split: Split) -> Example:
        prompt, answer = cls.make(random.Random(f"{cls.name} {split} {seed} {index}"), split)
        return Example(id=f"{cls.name}-{split}-{seed}-{index}", prompt=prompt, reference=answer)


def held_out(key: str, one_in: int = 8) -> bool:
    """Whether `key` belongs to the test split: one key in `one_in`, by SHA-256, for ever."""
    return hashlib.sha256(key.encode()).digest()[0] % one_in == 0
