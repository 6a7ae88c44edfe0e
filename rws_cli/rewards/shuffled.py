"""Scores of other examples at the same progress: a control"""

import random
from pathlib import Path
from typing import Any

from rws_cli.errors import UsageError
from rws_cli.models.checkpoint import locate
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, as_statistics, read_statistics


@part
class Shuffled(Reward):
    """Drawn from scores that a calibration stored for each tenth of progress (the share of tokens committed), by a random
    number of (seed, example, step). Scores keep their distribution along a decoding but carry no information about the
    text, and rows do not depend on their batch."""

    statistics: str = setting("the checkpoint whose normalization.json holds scores by progress", "bundled:tiny-reward")

    draws = True

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        key = f"{key}.statistics"
        file = Path(locate(self.statistics, key)) / "normalization.json"
        stored = read_statistics(file, key)
        if not stored.get("by_progress"):
            raise UsageError(f"{key}={self.statistics} stores no scores by progress, which shuffling needs.")
        self.by_progress: list[list[float]] = stored["by_progress"]
        if not isinstance(self.by_progress, list) or not all(
            isinstance(pool, list) and pool for pool in self.by_progress
        ):
            raise UsageError(
                f"{file}: by_progress must be lists of scores, none of them empty: calibrate with "
                "sampler.tokens_per_step=1, which covers every level of progress."
            )
        self.normalization = as_statistics(stored)
        self.seed = seed

    def score(self, candidates: list[Candidate]) -> Scores:
        values = []
        for c in candidates:
            pool = self.by_progress[min(int(c.progress * len(self.by_progress)), len(self.by_progress) - 1)]
            values.append(random.Random(f"shuffled {self.seed} {c.example.id} {c.step}").choice(pool))
        return Scores(values, [0] * len(values))
