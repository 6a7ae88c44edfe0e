"""What every order answers."""

from typing import ClassVar

from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.part import Part


class Order(Part):
    role = "order"
    needs_all_log_probs: ClassVar[bool] = False
    """Whether `read` reads log-probabilities of all tokens; without it only the proposed ones are computed."""
    reads_tokens: ClassVar[bool] = True
    """Whether scores depend on what the model proposes."""

    def prepare(self, sampler: object) -> None:
        """Note what it needs of the sampler's settings."""

    def load(self, prepared: object) -> None:
        """Read what it needs of files; prepared: what runs/prepared.py prepared. Raises UsageError."""

    def features(self, log_p_nV: Tensor) -> Tensor:
        """What the order must know of the log-probabilities of each position by itself, (n, …)."""
        return log_p_nV[:, :0]

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        """(N,) float64 for the N positions that a step reads, of all rows; none may depend on another row."""
        raise NotImplementedError

    def as_probability(self, score_N: Tensor) -> Tensor:
        """Scores as sampler.order_temperature divides them."""
        return score_N
