"""Random positions, drawn again at each step"""

from torch import Tensor

from rws_cli.decoding.noise import uniform
from rws_cli.decoding.prediction import ORDER, PURPOSES, RANDOM
from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part


@part
class Random(Order):
    draws = True
    reads_tokens = False

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        number_N = prediction.number_N * PURPOSES + ORDER
        return uniform(prediction.key_N, number_N, prediction.position_N, RANDOM + 1)[:, RANDOM]
