"""The positions closest to a starting position first"""

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part, setting


@part
class Outward(Order):
    start: float = setting("starting position, as a share of the completion", 0.5, min=0.0, max=1.0)

    reads_tokens = False

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        """Minus the distance, in positions."""
        first = self.start * (step.free_BG.shape[1] - 1)
        return -(prediction.position_N.double() - first).abs()
