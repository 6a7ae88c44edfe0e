"""A reward of the completion up to each of its lines or blocks, joined"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, ask, statistics_at


@part
class Process(Reward):
    """Scores the text up to the end of each line or block, all in one call, and joins the scores."""

    component: Any = setting(
        "the reward that scores each prefix; to replace it: reward@reward.component=…", role="reward"
    )
    unit: str = setting(
        "prefixes end after each step (a line of text) or block (sampler.block_length tokens)",
        "block",
        choices=("step", "block"),
    )
    join: str = setting(
        "how scores are joined: their mean, the lowest, or the last", "mean", choices=("mean", "min", "last")
    )
    statistics: str | None = setting(
        "a JSON file of the joined score's statistics; null: those that rws calibrate measured", None
    )

    can_be_component = False

    @property
    def stateless(self) -> bool:
        """Where blocks end depends on tokens, not on the text alone."""
        return self.unit == "step" and self.component.stateless

    @property
    def draws(self) -> bool:
        return self.component.draws

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        self.inner: Reward = self.component.loaded(benchmark, seed, f"{key}.component")
        self.normalization = statistics_at(self.statistics, f"{key}.statistics")

    def score(self, candidates: list[Candidate]) -> Scores:
        beginnings = [c.blocks or (c.text,) if self.unit == "block" else steps(c.text) for c in candidates]
        prefixes = [
            replace(c, text=text, slot=None) for c, texts in zip(candidates, beginnings, strict=True) for text in texts
        ]
        scores = ask(self.inner, prefixes)
        values, tokens, start = [], [], 0
        for texts in beginnings:
            here = slice(start, start + len(texts))
            values.append(join(scores.values[here], self.join))
            tokens.append(sum(scores.tokens[here]))
            start += len(texts)
        return Scores(values, tokens)

    def forget(self, slots: Sequence[int] | None = None) -> None:
        self.inner.forget(slots)


def steps(text: str) -> tuple[str, ...]:
    """The text up to the end of each line that is not blank; the whole text if all are."""
    lines = text.split("\n")
    return tuple("\n".join(lines[: n + 1]) for n, line in enumerate(lines) if line.strip()) or (text,)


def join(values: list[float], how: str) -> float:
    if how == "min":
        return min(values)
    return values[-1] if how == "last" else sum(values) / len(values)
