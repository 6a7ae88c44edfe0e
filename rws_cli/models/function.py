"""A function from token ids to logits in place of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rws_cli.errors import UsageError
from rws_cli.models.base import Denoiser, positions

LogitsFunction = Callable[[Tensor], Tensor]
"""(B, L) token ids, int64 → (B, L, V) logits of any floating dtype, at each position those of its own token."""


class IdsAsText:
    """Stands for a tokenizer where there is none: the text of tokens is their ids, such as "12 7 99"."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))


class _Forward:
    """models/base.py's Forward from a function that pads nothing. dtype: of the logits that it returned last."""

    def __init__(self, function: LogitsFunction, largest_id: int) -> None:
        self.function, self.largest_id, self.dtype = function, largest_id, torch.float32

    def __call__(self, tokens_BL: Tensor, attention: Tensor, wanted_BL: Tensor, count: int | None = None) -> Tensor:
        logits_BLV: Any = self.function(tokens_BL.clone())
        shape, ids_shape = tuple(getattr(logits_BLV, "shape", ())), tuple(tokens_BL.shape)
        if not isinstance(logits_BLV, Tensor) or len(shape) != 3 or shape[:2] != ids_shape:
            raise UsageError(
                f"The logits function must return a tensor (B, L, V), which is ({ids_shape[0]}, {ids_shape[1]}, V) here; it "
                f"returned {f'a tensor {shape}' if isinstance(logits_BLV, Tensor) else type(logits_BLV).__name__}."
            )
        if self.largest_id >= shape[2]:
            raise UsageError(
                f"The logits function returned logits for {shape[2]} tokens, so token {self.largest_id}, which mask_id or "
                "eos_ids names, does not exist."
            )
        self.dtype = logits_BLV.dtype
        return logits_BLV.to(tokens_BL.device)[positions(wanted_BL, count)]


def function_denoiser(
    function: LogitsFunction, mask_id: int, eos_ids: Sequence[int], tokenizer: Any, device: torch.device
) -> Denoiser:
    """A denoiser that asks the function. All rows of a batch must be equally long, for the function sees no attention
    mask. tokenizer: None where nothing reads text. Raises UsageError for ids that cannot be."""
    if mask_id < 0 or min(eos_ids, default=0) < 0:
        raise UsageError(f"{f'mask_id={mask_id}' if mask_id < 0 else f'eos_ids={list(eos_ids)}'} is not a token id.")
    if mask_id in eos_ids:
        raise UsageError(f"mask_id={mask_id} is among eos_ids: the mask cannot end a completion.")
    forward = _Forward(function, max([mask_id, *eos_ids]))
    return Denoiser(
        path="", model_class=None, arguments={}, tokenizer=tokenizer or IdsAsText(), mask_id=mask_id,
        eos_ids=tuple(eos_ids), pad_id=0, chat_template=False, model=forward, forward=forward, device=device,
    )  # fmt: skip
