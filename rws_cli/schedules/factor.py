"""The n most confident tokens, for the largest n with (n + 1)(1 − c_n) below a factor (Fast-dLLM, 2505.22618)"""

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, best, longest


@part
class Factor(Adaptive):
    """c: confidences in descending order. Every n counts, not only those before the first that fails; if none holds, the
    most confident token is committed."""

    factor: float = setting("f: commit the n most confident tokens while (n + 1)(1 − c_n) < f", 1.0, above=0.0)

    refills = True

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        sorted_BG = ranking.log_p_BG.sort(dim=-1, descending=True).values
        place_G = torch.arange(2, sorted_BG.shape[-1] + 2, device=sorted_BG.device)
        return best(ranking.log_p_BG, longest(place_G * -sorted_BG.expm1() < self.factor))
