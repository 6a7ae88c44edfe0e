"""The same score for every text: a control"""

from collections.abc import Iterator
from typing import Any

from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, Statistics


@part
class Constant(Reward):
    """The score is its own z-score."""

    value: float = setting("the score", 0.0)

    stateless = True
    normalization = Statistics(mean=0.0, std=1.0, min=-1.0, max=1.0)

    def conflicts(self, config: Any) -> Iterator[str]:
        if getattr(config.sampler.guidance, "normalize", "") == "none" and self.value <= 0:
            yield (
                f"reward.value={self.value} cannot scale logits with sampler.guidance.normalize=none: it must be greater "
                "than 0."
            )

    def score(self, candidates: list[Candidate]) -> Scores:
        return Scores([self.value] * len(candidates), [0] * len(candidates))
