"""A reward as judge, other than the one that guided decoding: the completion with the higher score is better"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rws_cli.judges.base import Judge, Pair, Verdict, prefer
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, ask


@part
class RewardJudge(Judge):
    """Scores each completion once, so the order of a pair does not matter."""

    reward: Any = setting("the reward that scores completions; choose one with reward@judge.reward=…", role="reward")
    margin: float = setting("scores this close are a tie", 0.0, min=0.0)

    def mistakes(self, key: str) -> Iterator[str]:
        if not self.reward.scores:
            yield f"{key}.reward={self.reward.name} has no scores: choose a reward with reward@{key}.reward=…."
        if self.reward.judged:
            yield f"{key}.reward={self.reward.name} asks a judge itself: choose another with reward@{key}.reward=…."

    def load(self, benchmark: Any) -> None:
        self.scorer: Reward = self.reward.loaded(benchmark, 0, "judge.reward")

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        sides = {
            (pair.example.id, pair.completions[n], pair.histories[n]): pair.example for pair in pairs for n in (0, 1)
        }
        candidates = [
            Candidate(replace(example, history=history), completion, 1.0, -1)
            for (_, completion, history), example in sides.items()
        ]
        scores = dict(zip(sides, ask(self.scorer, candidates).values, strict=True)) if candidates else {}
        for pair in pairs:
            a, b = (scores[pair.example.id, pair.completions[n], pair.histories[n]] for n in (0, 1))
            yield Verdict(prefer(a - b, self.margin), f"{a:g} against {b:g}")
