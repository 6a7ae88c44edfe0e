"""All tokens above a threshold, and one more: that which leaves the surest predictions (LoPA, 2512.16229)"""

import math

import torch
from torch import Tensor

from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one, ranks


@part
class Lopa(Adaptive):
    """The anchor is the block after a step of the threshold schedule. Each of the `branches` best positions that it leaves
    masked gives a canvas: the anchor with the token proposed there. One pass computes the anchor and these canvases; a canvas
    scores the mean probability of the tokens proposed at the masks of the block, 1 if none is left. The step commits the
    canvas with the highest score, the last of equal ones."""

    threshold: float = setting("lowest probability of the tokens that the anchor commits", 0.9, above=0.0, max=1.0)
    branches: int = setting("canvases that are compared with the anchor", 5, min=1)

    family = "lookahead"
    refills = True
    caches = ()
    not_drafted = "it chooses among canvases that its steps compute ahead"

    @property
    def lookahead(self) -> int:
        return self.branches + 1

    def extra_passes(self, steps: int) -> int:
        return 0

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        anchor_BG = (ranking.log_p_BG >= math.log(self.threshold)) | one(ranking.score_BG)
        rest_BG = ranking.open_BG & ~anchor_BG
        rank_BG = ranks(ranking.score_BG.masked_fill(~rest_BG, -torch.inf))
        place_K = torch.arange(-1, self.branches, device=rank_BG.device)  # −1: the anchor
        added_BKG = (rank_BG[:, None] == place_K[:, None]) & rest_BG[:, None]
        completion_BKG = torch.where(anchor_BG[:, None] | added_BKG, ranking.token_BG[:, None], step.tokens_BG[:, None])
        exists_BK = added_BKG.any(-1) | (place_K < 0)
        several_B = rest_BG.sum(-1) > 1  # a single mask is filled by the only branch, whatever the anchor scores
        wanted_BKG = rest_BG[:, None] & ~added_BKG & (exists_BK & several_B[:, None])[..., None]
        return Branches(completion_BKG, wanted_BKG)

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, Tensor]:
        chosen_BKG = (ahead.completion_BKG != step.tokens_BG[:, None]) & ranking.open_BG[:, None]
        count_BK, wanted_BK = chosen_BKG.sum(-1), ahead.wanted_BKG.sum(-1)
        mean_BK = (ahead.log_p_BKG.exp() * ahead.wanted_BKG).sum(-1) / wanted_BK.clamp(min=1)
        full_BK = count_BK == ranking.open_BG.sum(-1, keepdim=True)
        score_BK = torch.where(wanted_BK > 0, mean_BK, torch.where(full_BK, 1.0, -1.0))
        winner_B = score_BK.argsort(dim=-1, stable=True)[:, -1]
        return ranking, chosen_BKG[torch.arange(len(winner_B), device=winner_B.device), winner_B]
