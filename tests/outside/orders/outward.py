"""The positions nearest to a place in the answer first"""

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.orders.base import Order
from rws_cli.part import part, setting


@part
class Outward(Order):
    start: float = setting("where decoding begins, as a share of the answer", 0.5, min=0.0, max=1.0)

    reads_tokens = False

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        """Minus the distance, in positions."""
        first = self.start * (step.free_BG.shape[1] - 1)
        return -(prediction.position_N.double() - first).abs()
