"""A weighted sum of rewards, each as its z-score"""

from collections.abc import Iterator, Sequence
from typing import Any

from rws_cli.decoding.statistics import normalize
from rws_cli.errors import UsageError
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, Statistics, ask, statistics_at


@part
class Composite(Reward):
    """Σ weight × z-score of each component, by the component's own statistics, so that none counts for its units alone."""

    components: dict[str, Any] = setting(
        "the rewards that are summed, by a name of yours; another: reward@reward.components.NAME=…", role="reward"
    )
    weights: dict[str, float] = setting("a number for each of the components")
    statistics: str | None = setting("of the sum, a JSON file; null: what rws calibrate found", None)

    can_be_component = False

    @property
    def stateless(self) -> bool:
        return all(reward.stateless for reward in self.components.values())

    @property
    def draws(self) -> bool:
        return any(reward.draws for reward in self.components.values())

    def mistakes(self, at: str) -> Iterator[str]:
        if set(self.weights) != set(self.components):
            yield (
                f"{at}.weights has {', '.join(self.weights)} and {at}.components has {', '.join(self.components)}: give each component "
                "a weight."
            )

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        self.summed = {
            name: part.loaded(benchmark, seed, f"{at}.components.{name}") for name, part in self.components.items()
        }
        for name, reward in self.summed.items():
            if reward.normalization is None:
                raise UsageError(
                    f"{at}.components.{name} stores no statistics, which a sum needs: measure them with rws calibrate on that "
                    f"reward alone, and set {at}.components.{name}.statistics=<the file>."
                )
        self.normalization = statistics_at(self.statistics, f"{at}.statistics")

    def score(self, candidates: list[Candidate]) -> Scores:
        values, tokens = [0.0] * len(candidates), [0] * len(candidates)
        for name, reward in self.summed.items():
            found = ask(reward, candidates)
            values = [
                total + self.weights[name] * normalize(value, "zscore", reward.normalization)
                for total, value in zip(values, found.values, strict=True)
            ]
            tokens = [a + b for a, b in zip(tokens, found.tokens, strict=True)]
        return Scores(values, tokens)

    def forget(self, slots: Sequence[int] | None = None) -> None:
        for reward in self.summed.values():
            reward.forget(slots)

    def depends_on(self) -> list[Statistics]:
        return [reward.normalization for reward in self.summed.values()]
