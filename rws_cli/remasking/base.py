"""The base class of remasking methods."""

from torch import Tensor

from rws_cli.decoding.step import Step
from rws_cli.part import Part


class Remasking(Part):
    role = "remasking"
    rounds = 0
    """The most times that a block is decoded again."""
    window = 1
    """Blocks that are reviewed together, the newest included."""

    def again(self, step: Step, rows_B: Tensor, number_B: Tensor) -> Tensor:
        """Positions to mask again, (B, G), in the rows in rows_B, whose block is done. number_B: the number of the next step.
        A row without such positions moves to the next block."""
        raise NotImplementedError
