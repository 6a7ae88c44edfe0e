"""What a benchmark is: examples to answer, and a rule that marks an answer."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

from rws_cli.errors import RunError

Row = dict[str, Any]
"""A line of a data set, its fields by name."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """One question.

    id: stable name, unique in its benchmark; random streams and resume key on it.
    prompt: the user's turn, before the chat template.
    reference: a right answer, as the model would write it; "" where there is none.
    row: what the data set says besides; empty for generated examples.
    keywords: words that a good answer holds.
    question: the id of what several examples are answers to; "" if this is the only one.
    follows: the id of the example that this one goes on from, whose answer it sees; None for a first turn.
    history: the turns before this one, (user's, assistant's); known once `follows` is answered.
    """

    id: str
    prompt: str
    reference: str
    row: Row = field(default_factory=dict, compare=False)
    keywords: tuple[str, ...] = ()
    question: str = ""
    follows: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def messages(self, answer: str | None = None) -> list[dict[str, str]]:
        """The conversation so far, as chat templates take it, with an answer to the prompt if one is given."""
        return messages(self.prompt, self.history, answer)


def messages(prompt: str, history: Iterable[tuple[str, str]] = (), answer: str | None = None) -> list[dict[str, str]]:
    turns = [*((user, assistant) for user, assistant in history), (prompt, answer)]
    spoken = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": text} for role, text in spoken if text is not None]


def answered(examples: list[Example], answers: int) -> list[Example]:
    """Each example as often as it is to be answered: ids get "/0", "/1", …, and `question` is the id before that."""
    if answers == 1:
        return examples
    return [
        replace(e, id=f"{e.id}/{n}", question=e.id, follows=e.follows and f"{e.follows}/{n}")
        for e in examples
        for n in range(answers)
    ]


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
    """Examples and a marker; `name` and `version` go into the manifest. What has no right answer is marked None."""

    name: str
    version: int

    def examples(self) -> list[Example]: ...

    def mark(self, example: Example, answer: str) -> Mark | None: ...


class Generated(Benchmark):
    """Examples from a seeded generator: example i depends on (split, seed, i) alone, so any limit sees the same first
    ones. With `turns`, so many successive examples are one conversation. A benchmark adds its name, version, `make`
    (random numbers, split → prompt, answer) and `mark`."""

    make: Callable[[random.Random, Split], tuple[str, str]]

    def __init__(self, limit: int, seed: int = 0, split: Split = "test", turns: int = 1) -> None:
        self.limit, self.seed, self.split, self.turns = limit, seed, split, turns

    def examples(self) -> list[Example]:
        made = [self._example(self.seed, index, self.split) for index in range(self.limit)]
        return [replace(e, follows=made[n - 1].id) if n % self.turns else e for n, e in enumerate(made)]

    @abstractmethod
    def mark(self, example: Example, answer: str) -> Mark: ...

    @classmethod
    @lru_cache(maxsize=4096)
    def _example(cls, seed: int, index: int, split: Split) -> Example:
        prompt, answer = cls.make(random.Random(f"{cls.name} {split} {seed} {index}"), split)
        return Example(f"{cls.name}-{split}-{seed}-{index}", prompt, answer, keywords=cls.keywords(prompt))

    @staticmethod
    def keywords(prompt: str) -> tuple[str, ...]:
        return ()


def mark_answer(benchmark: Benchmark, example: Example, answer: str) -> dict[str, Any] | None:
    """A benchmark's mark as records keep it. Raises RunError if the marker fails."""
    try:
        found = benchmark.mark(example, answer)
    except Exception as error:  # a marker may fail at anything that a model writes
        raise RunError(f"The answer to {example.id} cannot be marked: {type(error).__name__}: {error}") from error
    return asdict(found) if found else None


def held_out(key: str, one_in: int = 8) -> bool:
    """Whether `key` belongs to the test split: one key in `one_in`, by SHA-256, for ever."""
    return hashlib.sha256(key.encode()).digest()[0] % one_in == 0
