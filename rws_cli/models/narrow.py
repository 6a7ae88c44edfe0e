"""Linear layers and attention for passes of few tokens on a CPU.

MKL multiplies 8 to 48 rows x by a float32 weight W up to 1.7 times as fast in the form W·xᵀ as in x·Wᵀ, which torch asks
for. With the exact cache of block diffusion, a pass has this many rows. And transformers copies all keys and values once
for each query head of a group where there is an attention mask, which scaled_dot_product_attention does not need.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

FEWEST, MOST = 8, 48
"""Rows for which the other order of factors is faster."""


GROUPED = "rws_grouped"
"""The name of `attend` in transformers."""


def speed_up(model: Any) -> None:
    """Let the linear layers of a float32 model on a CPU choose the faster order of factors, and its attention not copy keys.

    From then on, a pass without an attention mask (B, 1, L, K) attends to everything.
    """
    from transformers import AttentionInterface

    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(GROUPED, attend)
        model.config._attn_implementation = GROUPED
    for module in model.modules():
        if (
            type(module) is torch.nn.Linear
            and module.weight.device.type == "cpu"
            and module.weight.dtype == torch.float32
        ):
            module.forward = partial(multiply, module)  # type: ignore[method-assign]


def attend(
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention (B, L, H, D) of queries (B, H, L, D), whose groups share keys and values (B, H', K, D)."""
    mixed = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


def multiply(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    """x·Wᵀ + b, of shape (…, out) for x (…, in)."""
    rows = x.numel() // x.shape[-1]
    if not FEWEST <= rows <= MOST:
        return linear(x, layer.weight, layer.bias)
    product = (layer.weight @ x.reshape(rows, -1).t()).t().contiguous().view(*x.shape[:-1], -1)
    return product if layer.bias is None else product + layer.bias
