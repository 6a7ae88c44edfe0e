"""Every confident token whose distribution is stable (KLASS, 2511.05664)"""

import math

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Klass(Adaptive):
    """Commits every token with probability ≥ threshold whose distribution changed by KL(p_t ‖ p_{t−1}) < kl at each of the
    last `history` steps; without one, the best token. The history covers all masks of the completion and continues across
    blocks. The first history − 1 steps of a block commit one token each, as in the authors' code."""

    threshold: float = setting("lowest probability of a confident token", 0.6, above=0.0, max=1.0)
    kl: float = setting(
        "KL divergence of two successive steps below which a distribution counts as stable, in nats", 0.015, above=0.0
    )
    history: int = setting("steps for which it must have been stable", 2, min=1)

    needs_all_log_probs = True

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return step.all_masked_BG & open_BG.any(-1, keepdim=True)

    def features(self, log_p_nV: Tensor) -> Tensor:
        return log_p_nV

    def update(self, ranking: Ranking, step: Step) -> None:
        (_, length), index_N = ranking.open_BG.shape, (ranking.row_N, ranking.position_N)
        last_BGV = step.memory.get("last", math.nan, length, ranking.features_N.shape[-1], dtype=torch.float32)
        rest_BG = self.rest(step)
        log_p_NV, last_NV = ranking.features_N, last_BGV[index_N].double()
        kl_N = (log_p_NV.exp() * (log_p_NV - last_NV)).nansum(-1).where(~last_NV[:, 0].isnan(), math.inf)
        rest_BG[index_N] = torch.where(kl_N < self.kl, rest_BG[index_N] + 1, 0)
        last_BGV[index_N] = log_p_NV.float()

    def rest(self, step: Step) -> Tensor:
        """The number of steps for which each position's distribution has been stable, (B, G)."""
        return step.memory.get("rest", 0, step.masked_BG.shape[1], dtype=torch.int64)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        sure_BG = ranking.open_BG & (ranking.log_p_BG >= math.log(self.threshold))
        sure_BG = sure_BG & (self.rest(step) >= self.history)
        sure_BG = sure_BG & (step.index_B >= self.history - 1)[:, None]
        return torch.where(sure_BG.any(-1, keepdim=True), sure_BG, one(ranking.score_BG))
