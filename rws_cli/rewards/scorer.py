"""Between the loop and a reward: renders tokens as text, never scores unchanged text twice, and charges the cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.loop import Cost, charge
from rws_cli.models.base import Denoiser
from rws_cli.rewards.base import Candidate, Reward


@dataclass
class RowScorer:
    """Scores the rows of one batch. masks: whether masks that are left show in the text ("keep") or not ("drop")."""

    reward: Reward
    denoiser: Denoiser
    examples: list[Example]
    costs: list[Cost]
    statistics: Statistics
    masks: str = "drop"
    last: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        texts = [self.denoiser.text(ids, self.masks) for ids in tokens_BG.tolist()]
        changed = [n for n, row in enumerate(rows) if self.last.get(row, (None,))[0] != texts[n]]
        for n in set(range(len(rows))) - set(changed):
            self.costs[rows[n]].reward_hits += 1
        if changed:
            paying = [rows[n] for n in changed]
            with charge(self.costs, paying, "reward_seconds"):
                scores = self.reward.score(
                    [Candidate(self.examples[rows[n]], texts[n], filled[n], step) for n in changed]
                )
            for n, value, tokens in zip(changed, scores.values, scores.tokens, strict=True):
                self.last[rows[n]] = (texts[n], value)
                self.costs[rows[n]].reward_calls += 1
                self.costs[rows[n]].reward_tokens += tokens
        return [self.last[row][1] for row in rows]
