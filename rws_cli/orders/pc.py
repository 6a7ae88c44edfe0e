"""Confident tokens first, frequent ones late, left before right (PC-Sampler, 2508.13021)"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Prediction, Step
from rws_cli.files import newest
from rws_cli.orders.base import Order
from rws_cli.orders.frequencies import FILE, read_frequencies
from rws_cli.part import part, setting


@part
class Pc(Order):
    """exp(−λ·i) · min(−p(x̂) log(f(x̂) + 1e−9), α), with i counted from the block's start and f the token's share of a corpus
    of N tokens (1/N if it does not occur)."""

    decay: float = setting("λ, the decay of scores per position from the block's start", 0.25, min=0.0)
    cap: float = setting("α, the highest score before decay", 10.0, above=0.0)
    frequencies: str | None = setting(
        "a file written by rws corpus; null: frequencies.json of the model's checkpoint", None
    )

    def load(self, prepared: Any) -> None:
        """Raises UsageError if there are no frequencies for the model's tokenizer."""
        path = newest(Path(self.frequencies or Path(prepared.model.path) / FILE))
        shares = read_frequencies(path, prepared.model.tokenizer, prepared.model.vocabulary, "sampler.pc.frequencies")
        self.use(torch.tensor(shares, dtype=torch.float64))

    def use(self, frequency_V: Tensor) -> None:
        """Set each token's share of a corpus, (V,)."""
        self.source = {"frequencies": hashlib.sha256(frequency_V.numpy().tobytes()).hexdigest()}  # type: ignore[misc]
        self.surprise_V = -(frequency_V + 1e-9).log()

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        self.surprise_V = self.surprise_V.to(prediction.token_N.device)
        sure_N = prediction.log_p_N.exp() * self.surprise_V[prediction.token_N]
        return (-self.decay * prediction.offset_N.double()).exp() * sure_N.clamp(max=self.cap)
