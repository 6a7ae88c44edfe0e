"""Logits multiplied by a constant: the control that every claim about RWS needs"""

from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.guidance.base import Guidance, Guided, ones, scaled
from rws_cli.part import part, setting


@part
class ConstantScale(Guidance):
    scale: float = setting("what the logits are multiplied by, 1 / temperature", 1.5, above=0.0)

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        return scaled(predicted, ones(step) * self.scale)
