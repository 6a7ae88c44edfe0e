"""Scores of other examples at the same fill level: a control"""

import random
from pathlib import Path
from typing import Any

from rws_cli.errors import UsageError
from rws_cli.models.checkpoint import locate
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, as_statistics, read_statistics


@part
class Shuffled(Reward):
    """Drawn from scores that the calibration of a reward model stored for tenths of the fill level, by a random number of
    (seed, example, step): rows stay independent of their batch, and scores keep the law that they have along a
    decoding, but say nothing of the text they are given to."""

    statistics: str = setting(
        "the checkpoint whose normalization.json holds scores by fill level", "bundled:tiny-reward"
    )

    draws = True

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        key = f"{at}.statistics"
        file = Path(locate(self.statistics, key)) / "normalization.json"
        stored = read_statistics(file, key)
        if not stored.get("by_progress"):
            raise UsageError(f"{key}={self.statistics} stores no scores by fill level, which shuffling needs.")
        self.by_progress: list[list[float]] = stored["by_progress"]
        if not isinstance(self.by_progress, list) or not all(
            isinstance(pool, list) and pool for pool in self.by_progress
        ):
            raise UsageError(
                f"{file}: by_progress must be lists of scores, none of them empty: calibrate with sampler.tokens_per_step=1, which "
                "sees every fill level."
            )
        self.normalization = as_statistics(stored)
        self.seed = seed

    def score(self, candidates: list[Candidate]) -> Scores:
        values = []
        for c in candidates:
            pool = self.by_progress[min(int(c.progress * len(self.by_progress)), len(self.by_progress) - 1)]
            values.append(random.Random(f"shuffled {self.seed} {c.example.id} {c.step}").choice(pool))
        return Scores(values, [0] * len(values))
