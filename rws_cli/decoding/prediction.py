"""Token probabilities at the open positions, and the token proposed for each.

Everything here works on logits (N, V), one row per open position. Confidence is kept as a logarithm in float64
that does not saturate. LLaDA's generate.py compared float64 probabilities before its commit f51cb17 (2025-06-02), and
compares those of the model's dtype since. A float64 probability is exactly 1 where the likeliest token leads by 37
logits, a bfloat16 one where it leads by 6. Such positions tie, and ties, which go to the left, would decide the order.
"""

import math

import torch
from torch import Tensor

from rws_cli.decoding.noise import uniform

GUMBEL, FILL = 0, 1
"""Purposes of random numbers at one (row, step): proposing a token, completing a mask for the reward."""
ORDER = 2
PURPOSES = 3
RANDOM, PLACE, REMASK, ACTION = 0, 1, 2, 3
"""Counters of the random numbers for ORDER: a random order or choice of positions, noise on scores, remasking, and, from the
last one on, the sets of positions that lookahead compares."""
REDRAW = 1 << 44
"""Added to random-number keys for each further draw of tokens at one step."""

BLOCK, SMALLEST_BLOCK = 512, 32
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
"""Bytes of float64 probabilities that are computed at a time; on a CPU so few that its caches hold them."""
MOST_ROWS, LOGIT_BYTES = 50, 2 << 30
"""Limits of the initial rows: 16 for LLaDA-8B with 256 tokens. Halved when memory runs out."""


def chunk_size(logits_NV: Tensor) -> int:
    """The number of positions that are computed at a time, so that float64 copies of a large vocabulary stay small."""
    return max(1, CHUNK_BYTES["cuda" if logits_NV.is_cuda else "cpu"] // (8 * logits_NV.shape[-1]))


def log_softmax(logits_NV: Tensor) -> Tensor:
    """log p (N, V). That of the likeliest token, −log1p(Σ exp(z_j − z_top)) over the others, stays exact down to e^−745."""
    top_N, index_N = logits_NV.max(-1, keepdim=True)
    below_NV = logits_NV - top_N
    others_N = below_NV.exp().scatter_(-1, index_N, 0.0).sum(-1, keepdim=True)
    return below_NV - others_N.log1p()


def likeliest(logits_NV: Tensor, forbidden: int) -> Tensor:
    """The likeliest token of each position, the first of equals; never `forbidden` (the mask)."""
    mask_N = logits_NV[:, forbidden].clone()
    logits_NV[:, forbidden] = -torch.inf  # restored below: copying all logits takes longer than the argmax
    token_N = _argmax(logits_NV)
    logits_NV[:, forbidden] = mask_N
    return token_N


def _argmax(x_NV: Tensor) -> Tensor:
    """The first of the largest. By blocks: for a large vocabulary on a CPU faster than torch's argmax."""
    size = math.gcd(x_NV.shape[1], BLOCK)
    if size < SMALLEST_BLOCK:
        return x_NV.argmax(-1)
    x_NPB = x_NV.view(len(x_NV), -1, size)
    block_N = x_NPB.amax(-1).argmax(-1)
    place_N = x_NPB[torch.arange(len(x_NV), device=x_NV.device), block_N].argmax(-1)
    return block_N * size + place_N


def log_p_of(logits_NV: Tensor, token_N: Tensor, scale_N: Tensor | None = None) -> Tensor:
    """log p (N,), float64, of one token per position under softmax(scale · z): −log(1 + exp(logsumexp(others) − z_token)).

    It needs one copy of the logits. With the largest of the others subtracted, the log of the sum is at most log V, so
    float32 gives it to 1e−6.
    """
    own_N1 = logits_NV.gather(-1, token_N[:, None])
    logits_NV.scatter_(-1, token_N[:, None], -torch.inf)  # restored below, in place of another copy
    top_N = logits_NV.amax(-1)
    others_NV = logits_NV - top_N[:, None]
    logits_NV.scatter_(-1, token_N[:, None], own_N1)
    lead_N = top_N.double() - own_N1[:, 0].double()
    if scale_N is not None:
        others_NV *= scale_N.to(others_NV.dtype)[:, None]
        lead_N = lead_N * scale_N
    return -torch.nn.functional.softplus(lead_N + others_NV.exp_().sum(-1).log().double())


def rounded_log_p(logits_NV: Tensor, dtype: torch.dtype) -> Tensor:
    """log p (N, V) of a softmax in `dtype`: probabilities that round to the same value stay equal, as in LLaDA's
    generate.py since its commit f51cb17 (2025-06-02)."""
    return logits_NV.to(dtype).softmax(-1).double().log()


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place that values have in `dtype`, float64."""
    return torch.finfo(dtype).eps * 2.0 ** (value.double().frexp().exponent - 1).double()


def lead(logits_NV: Tensor, token_N: Tensor, forbidden: int) -> Tensor:
    """How far the tokens' logits are above the highest other logit, `forbidden` (the mask) left out; (N,)."""
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
    """The log-probabilities (N, V) that tokens are drawn from; at T = 0 the untempered ones, whose argmax is taken."""
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
    """A token (N,) for each position, never `forbidden` (the mask): the argmax at T = 0, else a sample.

    Sampling uses the Gumbel-max trick, as LLaDA does: argmax of z/T − log(−log u), with u from (key, step number,
    position, token).
    """
    if temperature == 0:
        return likeliest(tempered_NV, forbidden)
    u = uniform(key_N, number_N * PURPOSES + purpose, position_N, tempered_NV.shape[-1])
    return likeliest(tempered_NV - (-u.log()).log(), forbidden)


def complete(
    logits_NV: Tensor, how: str, mask_id: int, key_N: Tensor, number_N: Tensor | int, position_N: Tensor
) -> Tensor:
    """Tokens (N,) that a reward reads in place of masks: the likeliest ("argmax") or one drawn at T = 1 ("sample").

    For "drop" and "keep" they stay masks, which the text is then rendered without or with.
    """
    if how in ("drop", "keep"):
        return torch.full_like(position_N, mask_id)
    if how == "argmax":
        return likeliest(logits_NV, mask_id)
    number_N = torch.as_tensor(number_N, device=key_N.device).expand_as(key_N)
    chunks = zip(*(x_N.split(chunk_size(logits_NV)) for x_N in (logits_NV, key_N, number_N, position_N)), strict=True)
    tokens = [
        propose(temper(z_nV.double(), 1.0, 1.0), 1.0, mask_id, key_n, number_n, position_n, FILL)
        for z_nV, key_n, number_n, position_n in chunks
    ]
    return torch.cat(tokens)
