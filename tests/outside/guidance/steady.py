"""Logits scaled up where the likeliest token has long been the same"""

import torch
from torch import Tensor

from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.guidance.base import Guidance, Guided
from rws_cli.part import part, setting


@part
class Steady(Guidance):
    """The scale of a position is 1 + rise × the number of steps that its likeliest token has been the same."""

    rise: float = setting("what each step adds to the scale", 0.5, min=0.0)

    def kept(self, name: str, initial: int, step: Step) -> Tensor:
        """What the row's memory keeps of each position, (B, G)."""
        return step.memory.get(f"steady.{name}", initial, step.tokens_BG.shape[1], dtype=torch.int64)

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        at, top_N = (predicted.row_N, predicted.position_N), predicted.logits_NV.argmax(-1)
        top_BG, same_BG = self.kept("top", -1, step), self.kept("same", 0, step)
        same_BG[at] = torch.where(top_BG[at] == top_N, same_BG[at] + 1, 0)
        top_BG[at] = top_N
        scale_BG = 1 + self.rise * same_BG.double()
        return Guided(predicted.logits_NV, scale_BG[at], record={"scale": scale_BG, "same": same_BG.clone()})
