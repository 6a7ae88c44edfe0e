"""What every guidance answers: logits and what the step knows go in, logits and a record come out."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.part import Part


@dataclass(frozen=True)
class Guided:
    """Logits (N, V); or those that came in, and what multiplies them at each position, (N,) float64, in float64 and by
    Guidance.apply. order_logits_NV: what orders read, if not these logits. record: what the trace keeps of each row (B,) or
    position (B, G), by name: `reward` and `scale` are the usual ones."""

    logits_NV: Tensor
    scale_N: Tensor | None = None
    order_logits_NV: Tensor | None = None
    record: dict[str, Tensor] = field(default_factory=dict)


class Guidance(Part):
    role = "guidance"
    target = "all"
    """Which logits are scaled: all, or only the highest."""
    shows_masks: ClassVar[Any] = "drop"
    """Whether masks that are left show in the text that a reward reads ("keep")."""

    def load(self, prepared: Any, reward: Any) -> None:
        """Read what it needs of files and of the loaded reward, before decoding. Raises UsageError."""

    def begin(self, rows: dict[int, str]) -> None:
        """Examples, by id, enter rows of the batch."""

    def reads_masked(self, step: Step) -> Tensor | None:
        """Rows (B,) whose next step needs the logits of all masked positions; None: of none."""
        return None

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        """Logits and a record. Rows whose step asks about nothing are not among predicted.row_N."""
        return Guided(predicted.logits_NV)

    def apply(self, z_nV: Tensor, scale_n: Tensor) -> Tensor:
        """z' = r·z on all logits of a position, or on its highest alone."""
        if self.target == "all":
            return z_nV * scale_n[:, None]
        top_n = z_nV.argmax(-1, keepdim=True)
        return z_nV.scatter(-1, top_n, z_nV.gather(-1, top_n) * scale_n[:, None])

    def calls(self, steps: int) -> int:
        """Reward calls in so many steps, at most."""
        return 0


def scaled(predicted: PositionLogits, scale_B: Tensor, **record: Tensor) -> Guided:
    """One scale for all positions of a row."""
    return Guided(predicted.logits_NV, scale_B[predicted.row_N], record={"scale": scale_B, **record})


def ones(step: Step) -> Tensor:
    return torch.ones(len(step.index_B), dtype=torch.float64, device=step.index_B.device)
