"""The base class of guidance: logits and the step's state go in, logits and a record come out."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.part import Part


@dataclass(frozen=True)
class Guided:
    """The result of guidance.

    logits_NV: new logits, or those that came in with scale_N, by which Guidance.apply multiplies them later, in float64.
    order_logits_NV: logits that orders read, if others. record: values for the trace by name, per row (B,) or position
    (B, G); the usual names are `reward` and `scale`.
    """

    logits_NV: Tensor
    scale_N: Tensor | None = None
    order_logits_NV: Tensor | None = None
    record: dict[str, Tensor] = field(default_factory=dict)


class Guidance(Part):
    role = "guidance"
    target = "all"
    """Which logits of a position are scaled: all, or only the highest ("proposed")."""
    shows_masks: ClassVar[Any] = "drop"
    """Whether remaining masks appear in the text that a reward reads: "keep" or "drop"."""
    passes: ClassVar[int] = 1
    """Forward passes of each step. Where there are two, `hides` chooses what the second one does not see, and the
    setting `scale` is w of z_u + (w + 1)(z_c − z_u)."""

    def load(self, prepared: Any, reward: Any) -> None:
        """Prepare before decoding, from files and the loaded reward. Raises UsageError."""

    def begin(self, rows: dict[int, str]) -> None:
        """Called when examples enter the batch: row → example id."""

    def reads_masked(self, step: Step) -> Tensor | None:
        """Rows (B,) whose next step needs the logits of all masked positions; None for no row."""
        return None

    def hides(self, logits_NV: Tensor, committed_RC: Tensor) -> Tensor:
        """The committed tokens (R, C) that the second pass of a step masks. logits_NV: those of the first pass at all R·C
        positions of the completions, in row-major order."""
        raise NotImplementedError

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        """Guide one step. Rows without open positions are not among predicted.row_N."""
        return Guided(predicted.logits_NV)

    def apply(self, z_nV: Tensor, scale_n: Tensor) -> Tensor:
        """z' = r·z for all logits of a position, or for its highest one only."""
        if self.target == "all":
            return z_nV * scale_n[:, None]
        top_n = z_nV.argmax(-1, keepdim=True)
        return z_nV.scatter(-1, top_n, z_nV.gather(-1, top_n) * scale_n[:, None])

    def calls(self, steps: int) -> int:
        """The most reward calls that this number of steps makes."""
        return 0


def scaled(predicted: PositionLogits, scale_B: Tensor, **record: Tensor) -> Guided:
    """Guidance by one scale per row (B,)."""
    return Guided(predicted.logits_NV, scale_B[predicted.row_N], record={"scale": scale_B, **record})


def ones(step: Step) -> Tensor:
    return torch.ones(len(step.index_B), dtype=torch.float64, device=step.index_B.device)
