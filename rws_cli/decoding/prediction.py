"""What the model says of the open positions, and the token proposed for each.

Everything here works on rows of logits, one row an open position: (N, V). Confidence is kept as a logarithm in float64
that does not saturate. LLaDA's generate.py compared float64 probabilities before its commit f51cb17 (2025-06-02), and
compares those of the model's dtype since. Float64 probabilities are all 1 where the likeliest token leads by 37 logits,
bfloat16 ones where it leads by 6. Ties, which go to the left, would then make the order.
"""

import torch
from torch import Tensor

from rws_cli.decoding.noise import uniform

GUMBEL, FILL = 0, 1
"""Purposes of random numbers at one (row, step): proposing a token, filling a mask for the reward model."""
ORDER = 2
PURPOSES = 3
RANDOM, PLACE, REMASK = 0, 1, 2
"""Counters of the numbers for ORDER: a random order or choice of positions, noise on an order's scores, masking again."""

BLOCK = 512


def log_softmax(logits_NV: Tensor) -> Tensor:
    """log p, that of the likeliest token exact as far as e^−745: −log1p(Σ exp(z_j − z_top)) over the other tokens."""
    top_N, index_N = logits_NV.max(-1, keepdim=True)
    below_NV = logits_NV - top_N
    others_N = below_NV.exp().scatter_(-1, index_N, 0.0).sum(-1, keepdim=True)
    return below_NV - others_N.log1p()


def likeliest(logits_NV: Tensor, forbidden: int) -> Tensor:
    """The likeliest token of each position but `forbidden` (the mask), the first of equals."""
    mask_N = logits_NV[:, forbidden].clone()
    logits_NV[:, forbidden] = -torch.inf  # and back: a copy of all logits would take longer than the argmax
    token_N = _argmax(logits_NV)
    logits_NV[:, forbidden] = mask_N
    return token_N


def _argmax(x_NV: Tensor) -> Tensor:
    """The first of the largest. By blocks of a row: torch's own takes six times as long over a large vocabulary on a CPU."""
    if x_NV.shape[1] % BLOCK:
        return x_NV.argmax(-1)
    x_NPB = x_NV.view(len(x_NV), -1, BLOCK)
    block_N = x_NPB.amax(-1).argmax(-1)
    place_N = x_NPB[torch.arange(len(x_NV), device=x_NV.device), block_N].argmax(-1)
    return block_N * BLOCK + place_N


def log_p_of(logits_NV: Tensor, token_N: Tensor, scale_N: Tensor | None = None) -> Tensor:
    """log p, (N,) float64, of one token a position under softmax(scale · z): −log(1 + exp(logsumexp of the others − its
    own)), which takes no float64 copy of the logits, and no probability of any other token.

    The logarithm of the sum is at most log V, whatever the logits, so that float32 gives it to 1e−6.
    """
    others_NV = logits_NV.scatter(-1, token_N[:, None], -torch.inf)
    top_N = others_NV.amax(-1)
    own_N = logits_NV.gather(-1, token_N[:, None])[:, 0]
    lead_N = top_N.double() - own_N.double()
    others_NV -= top_N[:, None]
    if scale_N is not None:
        others_NV *= scale_N.to(others_NV.dtype)[:, None]
        lead_N = lead_N * scale_N
    return -torch.nn.functional.softplus(lead_N + others_NV.logsumexp(-1).double())


def rounded_log_p(logits_NV: Tensor, dtype: torch.dtype) -> Tensor:
    """log p (N, V) of the probabilities that a softmax in `dtype` gives: equal probabilities stay equal, as in LLaDA's
    generate.py since its commit f51cb17 (2025-06-02)."""
    return logits_NV.to(dtype).softmax(-1).double().log()


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place that values have in `dtype`, float64."""
    return torch.finfo(dtype).eps * 2.0 ** (value.double().frexp().exponent - 1).double()


def lead(logits_NV: Tensor, token_N: Tensor, forbidden: int) -> Tensor:
    """By how much the logits of tokens are above the highest other one, `forbidden` (the mask) left out; (N,)."""
    others_NV = logits_NV.scatter(-1, token_N[:, None], -torch.inf)
    others_NV[:, forbidden] = -torch.inf
    return logits_NV.gather(-1, token_N[:, None])[:, 0] - others_NV.amax(-1)


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
    tempered_NV: Tensor,
    temperature: float,
    forbidden: int,
    key_N: Tensor,
    number_N: Tensor | int,
    position_N: Tensor,
    purpose: int,
) -> Tensor:
    """A token for each position, never `forbidden` (the mask): the argmax at T = 0, else a sample of the tempered law.

    Sampling is the Gumbel-max form of LLaDA's: argmax of z/T − log(−log u), u from (key, number of the step, position,
    token).
    """
    if temperature == 0:
        return likeliest(tempered_NV, forbidden)
    u = uniform(key_N, number_N * PURPOSES + purpose, position_N, tempered_NV.shape[-1])
    return likeliest(tempered_NV - (-u.log()).log(), forbidden)


def complete(
    logits_NV: Tensor, how: str, mask_id: int, key_N: Tensor, number_N: Tensor | int, position_N: Tensor
) -> Tensor:
    """Tokens (N,) to show in place of masks: the likeliest ("argmax") or one drawn at T = 1 ("sample").

    For "drop" and "keep" the masks stay; the text is then rendered without or with them.
    """
    if how in ("drop", "keep"):
        return torch.full_like(position_N, mask_id)
    temperature = 1.0 if how == "sample" else 0.0
    scores_NV = temper(logits_NV.double(), temperature, 1.0) if temperature else logits_NV
    return propose(scores_NV, temperature, mask_id, key_N, number_N, position_N, FILL)
