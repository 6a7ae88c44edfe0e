"""The widest margin between the two likeliest tokens first (Dream's topk_margin, 2508.15487)"""

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part


@part
class Margin(Order):
    """p1 − p2, less 1 so that it does not saturate."""

    needs_all_log_probs = True

    def features(self, log_p_nV: Tensor) -> Tensor:
        top_n2 = log_p_nV.topk(2, dim=-1).values
        return top_n2[:, 0].expm1() - top_n2[:, 1].exp()

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        return prediction.features_N
