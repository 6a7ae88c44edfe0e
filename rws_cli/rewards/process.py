"""A reward of the answer as far as each of its lines or blocks, joined"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, ask, statistics_at


@part
class Process(Reward):
    """Scores every beginning of an answer that ends with one of its parts, all in one call, and joins the scores."""

    component: Any = setting("the reward that scores each part; another: reward@reward.component=…", role="reward")
    unit: str = setting(
        "what ends a part: step (a line of text) or block (sampler.block_length tokens)",
        "block",
        choices=("step", "block"),
    )
    join: str = setting(
        "how scores become one: their mean, the least, or the last", "mean", choices=("mean", "min", "last")
    )
    statistics: str | None = setting("of the joined score, a JSON file; null: what rws calibrate found", None)

    can_be_component = False

    @property
    def stateless(self) -> bool:
        """Where blocks end depends on tokens, not on the text alone."""
        return self.unit == "step" and self.component.stateless

    @property
    def draws(self) -> bool:
        return self.component.draws

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        self.inner: Reward = self.component.loaded(benchmark, seed, f"{at}.component")
        self.normalization = statistics_at(self.statistics, f"{at}.statistics")

    def score(self, candidates: list[Candidate]) -> Scores:
        beginnings = [c.blocks or (c.text,) if self.unit == "block" else steps(c.text) for c in candidates]
        asked = [
            replace(c, text=text, slot=None) for c, texts in zip(candidates, beginnings, strict=True) for text in texts
        ]
        found = ask(self.inner, asked)
        values, tokens, at = [], [], 0
        for texts in beginnings:
            here = slice(at, at + len(texts))
            values.append(join(found.values[here], self.join))
            tokens.append(sum(found.tokens[here]))
            at += len(texts)
        return Scores(values, tokens)

    def forget(self, slots: Sequence[int] | None = None) -> None:
        self.inner.forget(slots)


def steps(text: str) -> tuple[str, ...]:
    """The text as far as the end of each line that says something; the whole text if none does."""
    lines = text.split("\n")
    return tuple("\n".join(lines[: n + 1]) for n, line in enumerate(lines) if line.strip()) or (text,)


def join(values: list[float], how: str) -> float:
    if how == "min":
        return min(values)
    return values[-1] if how == "last" else sum(values) / len(values)
