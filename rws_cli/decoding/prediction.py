"""What the model says of the open positions, and the token proposed for each.

Everything here works on rows of logits, one row an open position: (N, V). Confidence is kept as a logarithm in float64
that does not saturate: LLaDA's published procedure compares float64 probabilities, which are all 1 where the likeliest
token leads by 37 logits. Scaled logits get there, and ties, which go to the left, would then make the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.decoding.noise import uniform

GUMBEL, FILL = 0, 1
"""Purposes of random numbers at one (row, step): proposing a token, filling a mask for the reward model."""
ORDER = 2
PURPOSES = 3
RANDOM, PLACE, REMASK = 0, 1, 2
"""Counters of the numbers for ORDER: a random order or choice of positions, noise on an order's scores, masking again."""


@dataclass
class Prediction:
    """The open positions: position_N their places in the response, offset_N in their block, token_N the tokens proposed
    for them."""

    position_N: Tensor
    token_N: Tensor
    offset_N: Tensor


def log_softmax(logits_NV: Tensor) -> Tensor:
    """log p, that of the likeliest token exact as far as e^−745: −log1p(Σ exp(z_j − z_top)) over the other tokens."""
    top_N, index_N = logits_NV.max(-1, keepdim=True)
    below_NV = logits_NV - top_N
    others_N = below_NV.exp().scatter_(-1, index_N, 0.0).sum(-1, keepdim=True)
    return below_NV - others_N.log1p()


def nucleus(log_p_NV: Tensor, top_p: float) -> Tensor:
    """Log-probabilities restricted to the smallest set of likeliest tokens whose mass reaches top_p, renormalized."""
    if top_p >= 1.0:
        return log_p_NV
    sorted_NV, index_NV = log_p_NV.sort(dim=-1, descending=True, stable=True)
    before_NV = sorted_NV.exp().cumsum(-1) - sorted_NV.exp()
    cut_NV = (before_NV >= top_p).scatter(-1, index_NV, before_NV >= top_p)
    return log_softmax(log_p_NV.masked_fill(cut_NV, -torch.inf))


def temper(logits_NV: Tensor, temperature: float, top_p: float) -> Tensor:
    """The log-probabilities that tokens are drawn from; at T = 0 the untempered ones, whose argmax is taken."""
    scaled = logits_NV / temperature if temperature > 0 else logits_NV
    return nucleus(log_softmax(scaled), top_p)


def propose(
    tempered_NV: Tensor, temperature: float, forbidden: int, key_N: Tensor, step: int, position_N: Tensor, purpose: int
) -> Tensor:
    """A token for each position, never `forbidden` (the mask): the argmax at T = 0, else a sample of the tempered law.

    Sampling is the Gumbel-max form of LLaDA's: argmax of z/T − log(−log u), with u from (key, step, position, token).
    """
    scores = tempered_NV.clone()
    if temperature > 0:
        u = uniform(key_N, step * PURPOSES + purpose, position_N, tempered_NV.shape[-1])
        scores -= (-u.log()).log()
    scores[:, forbidden] = -torch.inf
    return scores.argmax(-1)
