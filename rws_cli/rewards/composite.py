"""A weighted sum of rewards."""

from __future__ import annotations

from pathlib import Path

from rws_cli.config.schema import CompositeReward
from rws_cli.errors import UsageError
from rws_cli.rewards.base import Candidate, Reward, Scores, as_statistics, ask, read_statistics
from rws_cli.rewards.statistics import Statistics, normalize


class Composite(Reward):
    """Σ weight × z-score of each part, by the part's own statistics, so that no part counts for its units alone."""

    def __init__(self, settings: CompositeReward, parts: dict[str, Reward]) -> None:
        for name, part in parts.items():
            if part.statistics is None:
                raise UsageError(
                    f"reward.parts.{name} stores no statistics, which a sum needs: measure them with rws calibrate on "
                    f"that reward alone, and set reward.parts.{name}.statistics=<the file>."
                )
        self.weighted = [(settings.weights[name], part) for name, part in parts.items()]
        stored = settings.statistics
        self.statistics: Statistics | None = (
            as_statistics(read_statistics(Path(stored), "reward.statistics")) if stored else None
        )

    def score(self, candidates: list[Candidate]) -> Scores:
        values, tokens = [0.0] * len(candidates), [0] * len(candidates)
        for weight, part in self.weighted:
            assert part.statistics is not None
            scores = ask(part, candidates)
            values = [
                v + weight * normalize(s, "zscore", part.statistics) for v, s in zip(values, scores.values, strict=True)
            ]
            tokens = [a + b for a, b in zip(tokens, scores.tokens, strict=True)]
        return Scores(values, tokens)

    def forget(self) -> None:
        for _, part in self.weighted:
            part.forget()
