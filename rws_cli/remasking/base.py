"""What every remasking method answers."""

from torch import Tensor

from rws_cli.decoding.step import Step
from rws_cli.part import Part


class Remasking(Part):
    role = "remasking"
    rounds = 0
    """How often a block is taken up again, at most."""
    window = 1
    """Blocks that are taken up together, the newest included."""

    def again(self, step: Step, rows_B: Tensor, number_B: Tensor) -> Tensor:
        """Positions to mask again (B, G), in those rows (a mask) whose block is done; number_B: of the step that follows.
        A row without any goes on to the next block."""
        raise NotImplementedError
