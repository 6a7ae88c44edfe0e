"""The most probable proposed token first (LLaDA's low-confidence remasking, 2502.09992)"""

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part


@part
class Confidence(Order):
    """log p(x̂)"""

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        return prediction.log_p_N

    def as_probability(self, score_N: Tensor) -> Tensor:
        return score_N.exp()
