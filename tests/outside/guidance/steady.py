"""Logits scaled up where the most likely token has not changed for a while"""

import torch
from torch import Tensor

from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.guidance.base import Guidance, Guided
from rws_cli.part import part, setting


@part
class Steady(Guidance):
    """The scale of a position is 1 + rise × the number of steps since its most likely token changed."""

    rise: float = setting("increase of the scale per step", 0.5, min=0.0)

    def memory(self, name: str, initial: int, step: Step) -> Tensor:
        """A tensor in the rows' memory with a value for each position, (B, G)."""
        return step.memory.get(f"steady.{name}", initial, step.tokens_BG.shape[1], dtype=torch.int64)

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        positions, top_N = (predicted.row_N, predicted.position_N), predicted.logits_NV.argmax(-1)
        top_BG, same_BG = self.memory("top", -1, step), self.memory("same", 0, step)
        same_BG[positions] = torch.where(top_BG[positions] == top_N, same_BG[positions] + 1, 0)
        top_BG[positions] = top_N
        scale_BG = 1 + self.rise * same_BG.double()
        return Guided(predicted.logits_NV, scale_BG[positions], record={"scale": scale_BG, "same": same_BG.clone()})
