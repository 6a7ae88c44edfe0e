"""The lowest entropy first (Dream's entropy, 2508.15487)"""

import torch
from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part


@part
class Entropy(Order):
    """Σ p log p"""

    needs_all_log_probs = True

    def features(self, log_p_nV: Tensor) -> Tensor:
        return torch.special.entr(log_p_nV.exp()).sum(-1).neg()

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        return prediction.features_N
