"""The base class of orders."""

from typing import ClassVar

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.part import Part


class Order(Part):
    role = "order"
    needs_all_log_probs: ClassVar[bool] = False
    """Whether `features` needs the log-probabilities of all tokens; else only those of proposed tokens are computed."""
    reads_tokens: ClassVar[bool] = True
    """Whether scores depend on the model's predictions."""

    def prepare(self, sampler: object) -> None:
        """Read what it needs from the sampler's settings."""

    def load(self, prepared: object) -> None:
        """Load what it needs from files. prepared: a runs.prepared.PreparedRun. Raises UsageError."""

    def features(self, log_p_nV: Tensor) -> Tensor:
        """Features (n, …) of n positions, each from its own log-probabilities alone."""
        return log_p_nV.new_empty((len(log_p_nV), 0))  # a view would keep them all in memory

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        """Scores (N,), float64, of the N positions that the step ranks, in all rows. No row may depend on another."""
        raise NotImplementedError

    def as_probability(self, score_N: Tensor) -> Tensor:
        """Scores in the form that sampler.order_temperature divides."""
        return score_N
