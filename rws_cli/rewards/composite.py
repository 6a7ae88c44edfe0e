"""A weighted sum of rewards, each as its z-score"""

from collections.abc import Iterator, Sequence
from typing import Any

from rws_cli.decoding.statistics import normalize
from rws_cli.errors import UsageError
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, Statistics, ask, statistics_at


@part
class Composite(Reward):
    """Σ weight × z-score of each component, by the component's own statistics, so that their units do not matter."""

    components: dict[str, Any] = setting(
        "the rewards to sum, by names of your choice; to replace one: reward@reward.components.NAME=…", role="reward"
    )
    weights: dict[str, float] = setting("a weight for each component")
    statistics: str | None = setting(
        "a JSON file of the sum's statistics; null: those that rws calibrate measured", None
    )

    can_be_component = False

    @property
    def stateless(self) -> bool:
        return all(reward.stateless for reward in self.components.values())

    @property
    def draws(self) -> bool:
        return any(reward.draws for reward in self.components.values())

    def mistakes(self, key: str) -> Iterator[str]:
        if set(self.weights) != set(self.components):
            yield (
                f"{key}.weights has {', '.join(self.weights)} and {key}.components has {', '.join(self.components)}: give each component "
                "a weight."
            )

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        self.summed = {
            name: part.loaded(benchmark, seed, f"{key}.components.{name}") for name, part in self.components.items()
        }
        for name, reward in self.summed.items():
            if reward.normalization is None:
                raise UsageError(
                    f"{key}.components.{name} stores no statistics, which a sum needs: measure them with rws calibrate on that "
                    f"reward alone, and set {key}.components.{name}.statistics=<the file>."
                )
        self.normalization = statistics_at(self.statistics, f"{key}.statistics")

    def score(self, candidates: list[Candidate]) -> Scores:
        values, tokens = [0.0] * len(candidates), [0] * len(candidates)
        for name, reward in self.summed.items():
            scores = ask(reward, candidates)
            values = [
                total + self.weights[name] * normalize(value, "zscore", reward.normalization)
                for total, value in zip(values, scores.values, strict=True)
            ]
            tokens = [a + b for a, b in zip(tokens, scores.tokens, strict=True)]
        return Scores(values, tokens)

    def forget(self, slots: Sequence[int] | None = None) -> None:
        for reward in self.summed.values():
            reward.forget(slots)

    def depends_on(self) -> list[Statistics]:
        return [reward.normalization for reward in self.summed.values()]
