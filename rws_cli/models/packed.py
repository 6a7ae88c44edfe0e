"""Linear layers for passes of few tokens on a CPU.

oneDNN keeps a float32 weight in the order in which its kernel reads it. Passes of 4 to 64 rows, which is what the exact
cache of block diffusion leaves, are up to twice as fast as with the row-major weight that torch passes to MKL. Passes of
hundreds of rows take the same time.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor

FEWEST_WEIGHTS = 2**19
"""Weights of smaller layers stay in the processor's cache, in any order."""
ROWS = 32
"""The number of rows that oneDNN chooses its order for. Other numbers are right too."""


def pack_weights(model: Any) -> None:
    """Pack the large float32 linear layers of a model on a CPU. A layer that shares its weights with another, as a tied
    output head does, keeps both forms; the others keep only the packed one. Gradients do not pass through packed layers."""
    if not torch.backends.mkldnn.is_available():
        return
    # By id, since a reference would keep a weight in memory after it is packed.
    users = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    for module in model.modules():
        if type(module) is not torch.nn.Linear:
            continue
        weight = module.weight
        if (weight.layout, weight.device.type, weight.dtype) != (torch.strided, "cpu", torch.float32):
            continue
        if weight.numel() < FEWEST_WEIGHTS:
            continue
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        if users[id(weight)] == 1:
            module.weight = torch.nn.Parameter(packed, requires_grad=False)
        module.forward = partial(multiply, packed, module.bias)  # type: ignore[method-assign]


def multiply(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x·Wᵀ + b, of shape (…, out) for x (…, in)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
