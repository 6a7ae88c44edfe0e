"""Rewards that are no reward model: an oracle, another example's score, a constant. They cost no model tokens."""

from __future__ import annotations

import random
from pathlib import Path

from rws_cli.benchmarks.base import Benchmark
from rws_cli.errors import UsageError
from rws_cli.models.checkpoint import locate
from rws_cli.rewards.base import Candidate, Reward, Scores, as_statistics, read_statistics
from rws_cli.rewards.statistics import Statistics


class Verifier(Reward):
    """The benchmark's own partial credit, in [0, 1]; statistics of a uniform share."""

    statistics: Statistics | None = Statistics(mean=0.5, std=12**-0.5, min=0.0, max=1.0)

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    def score(self, candidates: list[Candidate]) -> Scores:
        marks = [self.benchmark.mark(c.example, c.text) for c in candidates]
        values = [mark.partial for mark in marks if mark]
        if len(values) < len(marks):
            raise UsageError(
                f"reward=verifier needs right answers, which benchmark={self.benchmark.name} has not: choose another."
            )
        return Scores(values, [0] * len(values))


class Constant(Reward):
    """The same score for everything; it counts as its own z-score."""

    statistics: Statistics | None = Statistics(mean=0.0, std=1.0, min=-1.0, max=1.0)

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, candidates: list[Candidate]) -> Scores:
        return Scores([self.value] * len(candidates), [0] * len(candidates))


class Shuffled(Reward):
    """Another example's score at the same fill level.

    Drawn from scores that the calibration of a reward model stored for tenths of the fill level, by a random number of
    (seed, example, step): rows stay independent of their batch, and scores keep the law that they have along a
    decoding, but say nothing of the text they are given to. As with any reward, a text that has not changed since the
    last step keeps its score.
    """

    def __init__(self, statistics: str, seed: int) -> None:
        file = Path(locate(statistics, "reward.statistics")) / "normalization.json"
        stored = read_statistics(file, "reward.statistics")
        if not stored.get("by_fill"):
            raise UsageError(f"reward.statistics={statistics} stores no scores by fill level, which shuffling needs.")
        self.by_fill: list[list[float]] = stored["by_fill"]
        if not isinstance(self.by_fill, list) or not all(isinstance(pool, list) and pool for pool in self.by_fill):
            raise UsageError(
                f"{file}: by_fill must be lists of scores, none of them empty: calibrate with sampler.tokens_per_step=1, which "
                "sees every fill level."
            )
        self.statistics: Statistics | None = as_statistics(stored)
        self.seed = seed

    def score(self, candidates: list[Candidate]) -> Scores:
        values = []
        for c in candidates:
            pool = self.by_fill[min(int(c.filled * len(self.by_fill)), len(self.by_fill) - 1)]
            values.append(random.Random(f"shuffled {self.seed} {c.example.id} {c.step}").choice(pool))
        return Scores(values, [0] * len(values))
