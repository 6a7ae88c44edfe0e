"""The base class of judges, which decide which of two completions of a prompt is better. Some also answer prompts in words."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rws_cli.benchmarks.base import Example
from rws_cli.errors import UsageError
from rws_cli.part import Part, loaded, setting, settings

Turns = tuple[tuple[str, str], ...]
"""The turns before a prompt, (user's, assistant's)."""


@dataclass(frozen=True)
class Pair:
    """Two completions in the order in which the judge sees them, with the turns before each."""

    example: Example
    completions: tuple[str, str]
    histories: tuple[Turns, Turns]

    def swapped(self) -> Pair:
        """The pair in the opposite order."""
        return Pair(self.example, self.completions[::-1], self.histories[::-1])


@dataclass(frozen=True)
class Verdict:
    """first: 1 if the first completion is better, 0 if the second is, 0.5 for a tie; None if the reply has no verdict.
    reply: the judge's words or numbers."""

    first: float | None
    reply: str


@dataclass(frozen=True)
class Reply:
    """A reply in words. tokens: those that the judge read and wrote, also where the reply was cached."""

    text: str
    tokens: int


@settings
class Judge(Part):
    """A judge. It holds settings only; `loaded` returns a copy that can judge. key: the key of its settings."""

    name: str = setting("the name in tables and run folders")

    role = "judge"
    judges: ClassVar[bool] = True
    """Whether it judges at all."""
    answers: ClassVar[bool] = False
    """Whether it answers prompts in words (`reply`)."""
    key = "judge"

    def loaded(self, benchmark: Any, key: str = "judge") -> Self:
        """A copy that can judge. Raises UsageError if something that it needs is missing."""
        return loaded(self.keyed(key), key, benchmark)

    def keyed(self, key: str) -> Self:
        """A copy whose settings are at a key."""
        judge = copy.copy(self)
        judge.key = key
        return judge

    def load(self, benchmark: Any) -> None:
        """Load what judging needs into attributes of this copy. benchmark: the one that the completions belong to."""

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        """Yield verdicts in the order of the pairs, as they are ready. Raises RunError if the judge fails."""
        raise NotImplementedError

    def reply(self, prompts: list[str]) -> list[Reply]:
        """The replies to distinct prompts, if the judge `answers`. Raises UsageError if they may cost too much, and RunError if
        the judge fails."""
        raise NotImplementedError

    def price(self, requests: int, characters: int) -> str:
        """What replies cost at most, in words; "" if nothing. characters: of all prompts together. Raises UsageError if that is
        more than the user allows. Needs no `load`."""
        return ""

    def spent(self) -> dict[str, Any]:
        """The cost of judging since the judge was loaded, for judge.json; empty if there is none."""
        return {}


def prefer(difference: float, margin: float) -> float:
    """A verdict from the first score minus the second: 1 or 0, or 0.5 within the margin."""
    return 0.5 if abs(difference) <= margin else float(difference > 0)


def render(template: str, pair: Pair) -> str:
    """The template with {question}, {answer_a} and {answer_b} filled in. In a conversation, the question is the last one,
    and each answer is preceded by its earlier turns. Raises UsageError if the template has other names."""
    answers = []
    for history, completion in zip(pair.histories, pair.completions, strict=True):
        before = [f"(Earlier the user said:)\n{user}\n(and was answered:)\n{reply}" for user, reply in history]
        answers.append("\n".join([*before, "(The answer to the question:)", completion] if before else [completion]))
    try:
        return template.format(question=pair.example.prompt, answer_a=answers[0], answer_b=answers[1])
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"judge.template cannot be filled in: {error} is not a name that it can use; choose from question, answer_a, answer_b."
        ) from error
