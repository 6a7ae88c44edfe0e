"""What a judge is: it is shown two answers to a question, in an order, and says which is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rws_cli.benchmarks.base import Example
from rws_cli.errors import UsageError
from rws_cli.part import Part, loaded, setting, settings

Turns = tuple[tuple[str, str], ...]
"""The turns before a question, (user's, assistant's)."""


@dataclass(frozen=True)
class Pair:
    """Two answers in the order in which they are shown, and the turns that led to each."""

    example: Example
    completions: tuple[str, str]
    histories: tuple[Turns, Turns]

    def swapped(self) -> Pair:
        return Pair(self.example, self.completions[::-1], self.histories[::-1])


@dataclass(frozen=True)
class Verdict:
    """first: 1 if the answer shown first is better, 0 if the second is, 0.5 if neither; None if what the judge said
    cannot be read. reply: its words, or its numbers."""

    first: float | None
    reply: str


@settings
class Judge(Part):
    """Settings; `loaded` gives a copy that judges, with whatever it needs as plain attributes."""

    name: str = setting("what tables and run folders call it")

    role = "judge"
    judges: ClassVar[bool] = True
    """Whether there is anybody to ask."""

    def loaded(self, benchmark: Any) -> Self:
        """A copy that judges. Raises UsageError if something that it needs is missing."""
        return loaded(self, "judge", benchmark)

    def load(self, benchmark: Any) -> None:
        """Read what judging needs into attributes of this copy. benchmark: what grades answers."""

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        """Verdicts in the pairs' order, as they are ready. Raises RunError if the judge cannot go on."""
        raise NotImplementedError

    def spent(self) -> dict[str, Any]:
        """What asking has cost since the judge was loaded, for the record; empty if nothing."""
        return {}


def prefer(difference: float, margin: float) -> float:
    """1, 0 or, within the margin, 0.5, of a first score less a second."""
    return 0.5 if abs(difference) <= margin else float(difference > 0)


def render(template: str, pair: Pair) -> str:
    """The template with {question}, {answer_a}, {answer_b} filled in. Of a conversation the question is the last, and
    each answer shows the turns that led to it. Raises UsageError if the template names anything else."""
    shown = []
    for history, answer in zip(pair.histories, pair.completions, strict=True):
        before = [f"(Earlier the user said:)\n{user}\n(and was answered:)\n{said}" for user, said in history]
        shown.append("\n".join([*before, "(The answer to the question:)", answer] if before else [answer]))
    try:
        return template.format(question=pair.example.prompt, answer_a=shown[0], answer_b=shown[1])
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"judge.template cannot be filled in: {error} is not one of question, answer_a, answer_b."
        ) from error
