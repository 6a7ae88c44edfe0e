"""A denoiser with a backbone compiled by torch.compile: CUDA graphs on a GPU, fused loops on a CPU.

Each shape is compiled once, which takes about a minute. To keep shapes few, rows are padded to a power of two and columns
to a multiple of 64. The output head is not compiled, because the number of wanted positions changes at every step.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rws_cli.models.base import Denoiser, bidirectional_forward

COLUMNS, MOST_SHAPES = 64, 64


def compiled(denoiser: Denoiser, backend: str = "inductor") -> Denoiser:
    """The same denoiser, compiled."""
    graphs = denoiser.device.type == "cuda" and backend == "inductor"
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    backbone = torch.compile(denoiser.model.model, backend=backend, dynamic=False, **options)

    def fixed(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **rest: Any) -> Any:
        if attention_mask.ndim > 2:  # WINO's shadows
            return denoiser.model.model(input_ids, attention_mask, position_ids, **rest)
        rows, length = input_ids.shape
        more = (-length % COLUMNS, 0, 0, (1 << (rows - 1).bit_length()) - rows)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        # A row of padding alone would attend to nothing.
        mask = pad(attention_mask, more[:2])
        mask = torch.cat([mask, mask.new_ones(more[3], mask.shape[1])])
        output = backbone(pad(input_ids, more), mask, pad(position_ids, more), **rest)
        output.last_hidden_state = output.last_hidden_state[:rows, more[0] :]
        return output

    return replace(denoiser, forward=bidirectional_forward(denoiser.model, denoiser.shift, fixed))
