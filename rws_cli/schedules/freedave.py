"""The surest token, or every one above a threshold; one pass checks the steps to come (FreeDave, 2510.00294)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one, ranks


@part
class Freedave(Adaptive):
    """The first draft is the canvas after a plain step: the best token, or with a threshold every token with probability ≥
    threshold, and at least the best one. Each further draft also has the next best token. One pass computes all drafts. From
    the first draft on, the last draft whose tokens are all among those that a plain step on the present draft leaves replaces
    it, as long as there is one. Without a threshold, tokens are those of one token per step."""

    threshold: float | None = setting(
        "lowest probability of the tokens that a plain step commits; null: it commits the best one",
        None,
        above=0.0,
        max=1.0,
    )
    drafts: int = setting("the most canvases of a row in a pass", 4, min=1)

    family = "speculation"
    refills = True
    caches = ()
    not_drafted = "it computes drafts itself"

    def conflicts(self, config: Any) -> Iterator[str]:
        if config.sampler.order.kind != "confidence":
            yield (
                f"sampler.schedule.kind={self.kind} checks drafts by confidence: it does not work with "
                f"sampler.order={config.sampler.order.kind}."
            )

    @property
    def lookahead(self) -> int:
        return self.drafts

    def extra_passes(self, steps: int) -> int:
        return 0

    def plain(self, log_p_BG: Tensor, open_BG: Tensor) -> Tensor:
        """The positions (B, G) that a plain step commits."""
        best_BG = one(log_p_BG.masked_fill(~open_BG, -torch.inf))
        return best_BG if self.threshold is None else best_BG | open_BG & (log_p_BG >= math.log(self.threshold))

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        open_BG = ranking.open_BG & ranking.ranked_BG
        first_BG = self.plain(ranking.log_p_BG, open_BG)
        rest_BG = open_BG & ~first_BG
        rank_BG = ranks(ranking.log_p_BG.masked_fill(~rest_BG, -torch.inf))
        number_K = torch.arange(self.drafts, device=rank_BG.device)[:, None]
        drafted_BKG = first_BG[:, None] | rest_BG[:, None] & (rank_BG[:, None] < number_K)
        completion_BKG = torch.where(drafted_BKG, ranking.token_BG[:, None], step.tokens_BG[:, None])
        exists_BK1 = number_K <= rest_BG.sum(-1)[:, None, None]
        return Branches(completion_BKG, open_BG[:, None] & ~drafted_BKG & exists_BK1)

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, Tensor]:
        wanted_QG, shape = ahead.wanted_BKG.flatten(0, 1), ahead.wanted_BKG.shape
        again_BKG = (self.plain(ahead.log_p_BKG.flatten(0, 1), wanted_QG) & wanted_QG).view(shape)
        right_BKG = again_BKG & (ahead.token_BKG == ranking.token_BG[:, None])
        open_BG = ranking.open_BG & ranking.ranked_BG
        drafted_BKG = open_BG[:, None] & (ahead.completion_BKG != step.tokens_BG[:, None])
        new_BIJG = drafted_BKG[:, None] & ~drafted_BKG[:, :, None]
        follows_BIJ = ~(new_BIJG & ~right_BKG[:, :, None]).any(-1)
        number_J = torch.arange(self.drafts, device=follows_BIJ.device)
        row_B, best_B = torch.arange(shape[0], device=number_J.device), torch.zeros_like(step.index_B)
        for _ in range(self.drafts - 1):
            best_B = torch.where(follows_BIJ[row_B, best_B], number_J, 0).amax(-1).maximum(best_B)
        return ranking, drafted_BKG[row_B, best_B]
