"""Another reward minus a price per word"""

from typing import Any

from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, ask


@part
class Brief(Reward):
    part: Any = setting("the reward that is lowered; another: reward@reward.part=…", role="reward")
    price: float = setting("price of one word", 0.1, min=0.0)

    @property
    def stateless(self) -> bool:
        return self.part.stateless

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        self.inner = self.part.loaded(benchmark, seed, f"{at}.part")
        self.normalization = self.inner.normalization

    def score(self, candidates: list[Candidate]) -> Scores:
        scores = ask(self.inner, candidates)
        words = [len(candidate.text.split()) for candidate in candidates]
        return Scores([v - self.price * n for v, n in zip(scores.values, words, strict=True)], scores.tokens)
