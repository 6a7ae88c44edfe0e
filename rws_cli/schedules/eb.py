"""As many tokens, by score, as a bound on their entropy allows (EB-Sampler, 2505.24857)"""

import math

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, best, longest


@part
class EntropyBound(Adaptive):
    """The longest prefix U, by score, with ΣH − max H ≤ gamma, H in nats."""

    gamma: float = setting("γ, the bound on the mutual information of the committed tokens, in nats", 0.1, min=0.0)

    refills = True
    needs_all_log_probs = True

    def features(self, log_p_nV: Tensor) -> Tensor:
        """Entropies, in nats."""
        return torch.special.entr(log_p_nV.exp()).sum(-1)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        entropy_BG = ranking.spread(ranking.features_N, math.inf)
        order_BG = ranking.score_BG.argsort(dim=-1, descending=True, stable=True)
        sorted_BG = entropy_BG.gather(-1, order_BG)
        bound_BG = sorted_BG.cumsum(-1) - sorted_BG.cummax(-1).values
        return best(ranking.score_BG, longest(bound_BG <= self.gamma))
