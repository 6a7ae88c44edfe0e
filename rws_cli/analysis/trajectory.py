"""How a completion was decoded, step by step, from its row of the trace; the basis of replays and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from rws_cli.analysis.statistics import mean

END = "∎"
"""Stands for an end token and everything after it."""
BREAK = "⏎"
"""Stands for a line break."""


@dataclass(frozen=True)
class Commit:
    """A committed token: position, text, and confidence."""

    position: int
    text: str
    confidence: float | None


@dataclass
class Step:
    """One step. number: counted from 0. remasked: positions that were masked again before it. reward, scale: None if
    nothing scaled the logits."""

    number: int
    reward: float | None = None
    scale: float | None = None
    committed: list[Commit] = field(default_factory=list)
    remasked: list[int] = field(default_factory=list)

    @property
    def confidence(self) -> float | None:
        """Mean over the tokens that the step committed."""
        return mean(commit.confidence for commit in self.committed)


Place = tuple[int, Commit] | None
"""The content of a position: the index of the step that committed it, and the commit; None for a mask."""


@dataclass(frozen=True)
class Trajectory:
    """The steps of a decoding that changed something. positions: of the completion. length: tokens before the end.
    finished: whether these are all steps. fixed: the text of each token that stood on the canvas from the start, by position.
    """

    id: str
    positions: int
    length: int
    steps: list[Step]
    finished: bool = True
    fixed: dict[int, str] = field(default_factory=dict)

    @cached_property
    def states(self) -> list[list[Place]]:
        """The content of each position after n steps, for every n from 0. The step of a fixed token is −1."""
        places: list[Place] = [
            (-1, Commit(n, self.fixed[n], None)) if n in self.fixed else None for n in range(self.positions)
        ]
        states = [places]
        for n, step in enumerate(self.steps):
            places = list(places)
            for position in step.remasked:
                places[position] = None
            for commit in step.committed:
                places[commit.position] = (n, commit)
            states.append(places)
        if self.finished:  # what was never committed stands behind an end token that stopped the decoding
            last = len(self.steps) - 1
            states[-1] = [place or (last, Commit(i, END, None)) for i, place in enumerate(states[-1])]
        return states

    @cached_property
    def end(self) -> str | None:
        """The text of the token that ended the completion, if any."""
        if not self.finished:
            return None
        found = [c.text for step in self.steps for c in step.committed if c.position == self.length]
        return found[-1] if found else None

    def display(self, commit: Commit) -> str:
        """A token's text on one line; end tokens are one sign."""
        return END if commit.text == self.end else visible(commit.text)

    def left_to_right(self) -> Trajectory:
        """The same tokens with as many commits per step, but left to right, as an autoregressive model decodes."""
        commits = [place[1] for place in self.states[-1] if place and place[1].confidence is not None]
        steps: list[Step] = []
        taken = 0
        for step in self.steps:
            count = min(len(step.committed), len(commits) - taken)
            if count:
                steps.append(Step(len(steps), committed=commits[taken : taken + count]))
                taken += count
        return replace(self, steps=steps)


def trajectory_of(row: dict[str, Any], sample: dict[str, Any], finished: bool = True) -> Trajectory:
    """The trajectory of a completion, from its row of the trace and its line of samples.jsonl. Older traces without
    texts show token ids."""
    texts: Sequence[str] = row.get("text") or [f"[{token}]" for token in row["token"]]
    again = row.get("remasked_at") or [None] * len(row["step"])
    by_number: dict[int, Step] = {}
    for n, number in enumerate(row["step"]):
        step = by_number.setdefault(number, Step(number, row["reward"][n], row["scale"][n]))
        step.committed.append(Commit(row["position"][n], texts[n], row["confidence"][n]))
    steps = [by_number[number] for number in sorted(by_number)]
    for n, before in enumerate(again):
        if before is not None and (later := [step for step in steps if step.number >= before]):
            later[0].remasked.append(row["position"][n])
    positions, fixed = len(sample["tokens"]), dict(sample.get("fixed", ()))
    return Trajectory(row["id"], positions, sample.get("length", positions), steps, finished, fixed)


@lru_cache(1 << 16)
def visible(text: str) -> str:
    """Text on one line: line breaks and tabs as signs, without control characters."""
    signs = {"\n": BREAK, "\r": "", "\t": "⇥"}
    return "".join(signs.get(c, c) if c in signs else c if c.isprintable() or c == " " else "�" for c in text)
