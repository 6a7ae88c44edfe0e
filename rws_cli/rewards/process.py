"""A reward of an answer as far as each of its parts: steps of reasoning, or blocks of tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rws_cli.config.schema import ProcessReward
from rws_cli.rewards.base import Candidate, Reward, Scores, as_statistics, ask, read_statistics
from rws_cli.rewards.statistics import Statistics


class Process(Reward):
    """Scores every beginning of an answer that ends with one of its parts, all in one call, and joins the scores."""

    def __init__(self, settings: ProcessReward, part: Reward) -> None:
        self.settings, self.part = settings, part
        stored = settings.statistics
        self.statistics: Statistics | None = (
            as_statistics(read_statistics(Path(stored), "reward.statistics")) if stored else None
        )

    def score(self, candidates: list[Candidate]) -> Scores:
        beginnings = [c.blocks or (c.text,) if self.settings.parts == "block" else steps(c.text) for c in candidates]
        asked = [
            replace(c, text=text, slot=None) for c, texts in zip(candidates, beginnings, strict=True) for text in texts
        ]
        found = ask(self.part, asked)
        values, tokens, at = [], [], 0
        for texts in beginnings:
            here = slice(at, at + len(texts))
            values.append(join(found.values[here], self.settings.join))
            tokens.append(sum(found.tokens[here]))
            at += len(texts)
        return Scores(values, tokens)

    def forget(self) -> None:
        self.part.forget()


def steps(text: str) -> tuple[str, ...]:
    """The text as far as the end of each line that says something; the whole text if none does."""
    lines = text.split("\n")
    return tuple("\n".join(lines[: n + 1]) for n, line in enumerate(lines) if line.strip()) or (text,)


def join(values: list[float], how: str) -> float:
    if how == "min":
        return min(values)
    return values[-1] if how == "last" else sum(values) / len(values)
