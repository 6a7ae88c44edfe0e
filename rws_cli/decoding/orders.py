"""Orders: a score for each open position; the highest are committed first. One function an order.

Each takes log-probabilities (N, V) and the prediction, and returns (N,) float64. `random` needs a key and a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rws_cli.decoding.noise import uniform
from rws_cli.decoding.prediction import ORDER, PURPOSES, Prediction


def confidence(log_p_NV: Tensor, prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """log p(x̂): the logarithm of the proposed token's probability (LLaDA's low-confidence remasking)."""
    return log_p_NV.gather(-1, prediction.token_N[:, None])[:, 0]


def margin(log_p_NV: Tensor, prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """p1 − p2 between the two likeliest tokens (Dream's topk_margin), less 1 so that it does not saturate."""
    top = log_p_NV.topk(2, dim=-1).values
    return top[:, 0].expm1() - top[:, 1].exp()


def entropy(log_p_NV: Tensor, prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """Σ p log p, the negative entropy (Dream's entropy order)."""
    return torch.special.entr(log_p_NV.exp()).sum(-1).neg()


def random(log_p_NV: Tensor, prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """U(0, 1), drawn anew at each step."""
    return uniform(key_N, step * PURPOSES + ORDER, prediction.position_N, 1)[:, 0]


def left_to_right(log_p_NV: Tensor, prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """The position, negated."""
    return -prediction.position_N.double()


ORDERS: dict[str, Callable[[Tensor, Prediction, Tensor, int], Tensor]] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "random": random,
    "left_to_right": left_to_right,
}
