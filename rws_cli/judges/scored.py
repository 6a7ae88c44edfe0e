"""Judges that score each answer by itself: a reward model other than the one that steered, or the benchmark's marker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rws_cli.judges.base import Contest, Verdict, prefer
from rws_cli.rewards.base import Candidate, Reward, ask


@dataclass(frozen=True)
class ScoredJudge:
    """The answer with the higher score is better. Each is scored once, so the order in which they are shown is nothing."""

    reward: Reward
    margin: float

    def ask(self, contests: list[Contest]) -> Iterator[Verdict]:
        sides = {(c.example.id, c.answers[n], c.histories[n]): c.example for c in contests for n in (0, 1)}
        candidates = [
            Candidate(replace(example, history=history), answer, 1.0, -1)
            for (_, answer, history), example in sides.items()
        ]
        scores = dict(zip(sides, ask(self.reward, candidates).values, strict=True)) if candidates else {}
        for c in contests:
            a, b = (scores[c.example.id, c.answers[n], c.histories[n]] for n in (0, 1))
            yield Verdict(prefer(a - b, self.margin), f"{a:g} against {b:g}")
