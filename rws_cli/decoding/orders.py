"""Orders: a score for each open position; the highest are committed first. One function an order.

Each takes the prediction, keys and a step (which only `random` reads), and returns (N,) float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.decoding.noise import uniform
from rws_cli.decoding.prediction import ORDER, PLACE, PURPOSES, RANDOM, Prediction
from rws_cli.parts import says


@dataclass(frozen=True)
class PC:
    """What the order `pc` needs: decay λ, cap α, and frequency_V, each token's share of a corpus (an unseen one: 1/N of
    its N tokens)."""

    decay: float
    cap: float
    frequency_V: Tensor


def confidence(prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """log p(x̂): the logarithm of the proposed token's probability (LLaDA's low-confidence remasking)."""
    return prediction.log_p_N


def margin(prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """p1 − p2 between the two likeliest tokens (Dream's topk_margin), less 1 so that it does not saturate."""
    assert prediction.log_p_NV is not None
    top = prediction.log_p_NV.topk(2, dim=-1).values
    return top[:, 0].expm1() - top[:, 1].exp()


def entropy(prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """Σ p log p, the negative entropy (Dream's entropy order)."""
    assert prediction.log_p_NV is not None
    return torch.special.entr(prediction.log_p_NV.exp()).sum(-1).neg()


def random(prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """U(0, 1), drawn anew at each step."""
    return uniform(key_N, step * PURPOSES + ORDER, prediction.position_N, RANDOM + 1)[:, RANDOM]


def left_to_right(prediction: Prediction, key_N: Tensor, step: int) -> Tensor:
    """The position, negated."""
    return -prediction.position_N.double()


def pc(prediction: Prediction, settings: PC) -> Tensor:
    """exp(−λ·i) · min(−p(x̂) log(f(x̂) + 1e−9), α), i from the block's start (PC-Sampler, arXiv 2508.13021): sure tokens
    first, those that a corpus is full of later, the left before the right."""
    surprise_N = -(settings.frequency_V.to(prediction.token_N.device)[prediction.token_N] + 1e-9).log()
    return (-settings.decay * prediction.offset_N.double()).exp() * (prediction.log_p_N.exp() * surprise_N).clamp(
        max=settings.cap
    )


ORDERS: dict[str, Callable[[Prediction, Tensor, int], Tensor]] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "random": random,
    "left_to_right": left_to_right,
}
READ_NO_TOKEN = ("random", "left_to_right")
"""Orders that read no probability."""
READ_ALL_TOKENS = ("margin", "entropy")
"""Orders that need log-probabilities of all tokens, not only of the proposed ones."""


def reads_all_tokens(name: str) -> bool:
    """Whether an order needs log-probabilities of all tokens; one in a file of its own does unless it denies it."""
    if name in ORDERS or name == "pc":
        return name in READ_ALL_TOKENS
    return says("order", name, "READS_ALL_TOKENS", True)


def order_scores(name: str, prediction: Prediction, key_N: Tensor, step: int, settings: PC | None) -> Tensor:
    """The scores of the order of a name; `settings` are those of pc."""
    if name == "pc":
        assert settings is not None
        return pc(prediction, settings)
    order = ORDERS[name] if name in ORDERS else says("order", name, "score", None)
    return order(prediction, key_N, step)


def draw_order(score_N: Tensor, name: str, temperature: float, key_N: Tensor, step: int, position_N: Tensor) -> Tensor:
    """Scores whose highest k are a draw of k positions without replacement from softmax(score / temperature), Dream's
    alg_temp; the scores themselves at temperature 0. A confidence counts as the probability, not its logarithm."""
    if temperature == 0:
        return score_N
    score_N = score_N.exp() if name == "confidence" else score_N
    u_N = uniform(key_N, step * PURPOSES + ORDER, position_N, PLACE + 1)[:, PLACE]
    return score_N / temperature - (-u_N.log()).log()


def break_ties(score_N: Tensor, log_p_N: Tensor) -> Tensor:
    """Ranks in place of scores: of two equal scores the one with the higher log-probability ranks higher."""
    pairs_N2 = torch.stack([score_N.double(), log_p_N.double()], -1)
    return pairs_N2.unique(dim=0, return_inverse=True)[1].double()
