"""The benchmark's partial credit: an oracle, for ablations only"""

from typing import Any

from rws_cli.errors import UsageError
from rws_cli.part import part
from rws_cli.rewards.base import UNIFORM, Candidate, Reward, Scores


@part
class Verifier(Reward):
    """Scores in [0, 1]; its statistics are those of a uniform distribution."""

    stateless = True
    normalization = UNIFORM

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        self.benchmark = benchmark

    def score(self, candidates: list[Candidate]) -> Scores:
        grades = [self.benchmark.grade(c.example, c.text) for c in candidates]
        values = [grade.partial for grade in grades if grade]
        if len(values) < len(grades):
            raise UsageError(
                f"reward=verifier needs a benchmark that is graded, and benchmark={self.benchmark.name} is not: choose another."
            )
        return Scores(values, [0] * len(values))
