"""LLaDA's schedule, then rounds in which random tokens are masked and predicted from the others (Tolerator, 2510.05090)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import REMASK
from rws_cli.decoding.step import Ranking, Step
from rws_cli.models.base import positions
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Tolerator(Schedule):
    """The base schedule fills a block. Then each round masks a share of its n tokens at random, all but ⌊n(1 − share)⌋, and
    commits a new token at every mask in one step. A token that `settled` of its rounds in a row gave is masked no more. While
    the block is filled, the logit of the end token is divided by end_penalty; in the rounds, tokens are drawn at another
    temperature."""

    rounds: int = setting("rounds after a block is filled", 32, min=0)
    first_share: float = setting("share of the tokens that the first round masks", 0.8, min=0.0, max=1.0)
    last_share: float = setting("share of the tokens that the last round masks", 0.4, min=0.0, max=1.0)
    decay: str = setting(
        "how the share changes from the first round to the last", "cosine", choices=("cosine", "exponential")
    )
    settled: int | None = setting("rounds in a row with the same token after which it stays; null: never", 10, min=1)
    end_penalty: float = setting("what the end token's logit is divided by while a block is filled", 1.2, above=0.0)
    temperature: float | None = setting("temperature of the rounds; null: sampler.temperature", 0.3, above=0.0)

    draws = True
    remasks = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.temperature is not None and config.sampler.temperature == 0:
            yield (
                f"sampler.schedule.temperature={self.temperature} has no effect with sampler.temperature=0: set it to null."
            )
        if self.decay == "exponential" and self.first_share == 0 < self.last_share:
            yield (
                f"sampler.schedule.last_share={self.last_share} cannot be reached from first_share=0 with decay=exponential: "
                "set sampler.schedule.decay=cosine."
            )

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.base = self.steps
        self.steps += self.rounds
        self.sharpness = sampler.temperature / self.temperature if self.temperature else 1.0
        self.shares = [self.share(n / (self.rounds - 1) if self.rounds > 1 else 1.0) for n in range(self.rounds)]

    def share(self, t: float) -> float:
        """The share that a round masks; t runs from 0 at the first one to 1 at the last."""
        if self.decay == "cosine":
            return self.last_share + (self.first_share - self.last_share) * 0.5 * (1 + math.cos(math.pi * t))
        return self.first_share * (self.last_share / self.first_share) ** t if self.first_share else 0.0

    def in_rounds(self, step: Step) -> Tensor:
        return step.index_B >= self.base

    def same(self, step: Step) -> Tensor:
        """For how many of its rounds in a row each position has got the same token, (B, G)."""
        return step.memory.get("tolerator.same", 0, step.masked_BG.shape[1], dtype=torch.int64)

    def revised(self, step: Step) -> Tensor:
        """The positions (B, G) of which a round may mask some."""
        settled_BG = self.same(step) >= (self.settled or math.inf)
        return step.committed_BG & ~settled_BG & self.in_rounds(step)[:, None]

    def remask_before(self, step: Step) -> Tensor | None:
        if not self.rounds:
            return None
        revised_BG, device = self.revised(step), step.index_B.device
        share_B = torch.tensor(self.shares, dtype=torch.float64).to(device)[
            (step.index_B - self.base).clamp(0, self.rounds - 1)
        ]
        count_B = revised_BG.sum(-1)
        retained_B = (count_B * (1 - share_B)).floor().long()
        return best(step.chance(REMASK).masked_fill(~revised_BG, -torch.inf), count_B - retained_B)

    def count(self, step: Step) -> Tensor:
        count_B = step.started_B // self.base + (step.index_B < step.started_B % self.base)
        return count_B.masked_fill(self.in_rounds(step), step.masked_BG.shape[1])

    def adjust(self, logits_NV: Tensor, wanted_BG: Tensor, step: Step) -> Tensor:
        row_N, _ = positions(wanted_BG, len(logits_NV))
        is_round_N = self.in_rounds(step)[row_N]
        adjusted_NV = logits_NV * torch.where(is_round_N, self.sharpness, 1.0).to(logits_NV.dtype)[:, None]
        adjusted_NV[:, step.end_id] /= torch.where(is_round_N, 1.0, self.end_penalty).to(logits_NV.dtype)
        return adjusted_NV

    def update(self, ranking: Ranking, step: Step) -> None:
        last_BG = step.memory.get("tolerator.last", -1, step.masked_BG.shape[1], dtype=torch.int64)
        drawn_BG, same_BG = ranking.open_BG & self.in_rounds(step)[:, None], self.same(step)
        again_BG = torch.where(ranking.token_BG == last_BG, same_BG + 1, 1)
        same_BG.copy_(torch.where(drawn_BG, again_BG, same_BG))
        last_BG.copy_(torch.where(drawn_BG, ranking.token_BG, last_BG))

    def ended(self, step: Step) -> Tensor:
        is_settled_B = self.in_rounds(step) & ~self.revised(step).any(-1)
        return (step.index_B >= self.steps) | is_settled_B
