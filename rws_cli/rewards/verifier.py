"""The benchmark's own partial credit: an oracle, for ablations only"""

from typing import Any

from rws_cli.errors import UsageError
from rws_cli.part import part
from rws_cli.rewards.base import Candidate, Reward, Scores, Statistics


@part
class Verifier(Reward):
    """In [0, 1]; statistics of a uniform share."""

    stateless = True
    normalization = Statistics(mean=0.5, std=12**-0.5, min=0.0, max=1.0)

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        self.benchmark = benchmark

    def score(self, candidates: list[Candidate]) -> Scores:
        grades = [self.benchmark.grade(c.example, c.text) for c in candidates]
        values = [grade.partial for grade in grades if grade]
        if len(values) < len(grades):
            raise UsageError(
                f"reward=verifier needs right answers, which benchmark={self.benchmark.name} has not: choose another."
            )
        return Scores(values, [0] * len(values))
