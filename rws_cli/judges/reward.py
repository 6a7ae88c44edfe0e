"""A reward as a judge, other than the one that steered: the answer with the higher score is better"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rws_cli.judges.base import Judge, Pair, Verdict, prefer
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, ask


@part
class RewardJudge(Judge):
    """Each answer is scored once, so the order in which they are shown is nothing."""

    reward: Any = setting("what scores the answers; another: reward@judge.reward=…", role="reward")
    margin: float = setting("scores this close are a tie", 0.0, min=0.0)

    def mistakes(self, at: str) -> Iterator[str]:
        if not self.reward.scores:
            yield f"{at}.reward={self.reward.name} scores nothing: choose a reward with reward@{at}.reward=…."

    def load(self, benchmark: Any) -> None:
        self.scorer: Reward = self.reward.loaded(benchmark, 0, "judge.reward")

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        sides = {(c.example.id, c.completions[n], c.histories[n]): c.example for c in pairs for n in (0, 1)}
        candidates = [
            Candidate(replace(example, history=history), answer, 1.0, -1)
            for (_, answer, history), example in sides.items()
        ]
        scores = dict(zip(sides, ask(self.scorer, candidates).values, strict=True)) if candidates else {}
        for c in pairs:
            a, b = (scores[c.example.id, c.completions[n], c.histories[n]] for n in (0, 1))
            yield Verdict(prefer(a - b, self.margin), f"{a:g} against {b:g}")
