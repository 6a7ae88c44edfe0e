"""Strictly left to right, like an autoregressive model"""

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part


@part
class LeftToRight(Order):
    reads_tokens = False

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        return -prediction.position_N.double()
