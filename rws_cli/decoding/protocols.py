"""The interfaces of models and caches that the loop uses."""

from typing import Protocol

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch


class Denoiser(Protocol):
    """A masked diffusion model.

    `logits` returns float32 logits (N, V) at the wanted positions, in row-major order; count: N, if it is known; block_BL, the
    block of each column, is given to models whose `topology` has blocks. `dtype` is that of the weights, read only for
    confidence=model_dtype. `shadowed` also returns logits (B, K, V) at the positions place_BK of a block, predicted without
    seeing the tokens there; only WINO calls it. `attended` returns logits (B·L, V) at all positions, and the attention weights
    (B, query, key) of its last layers; only DAWN calls it.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def logits(
        self,
        tokens_BL: Tensor,
        attention_BL: Tensor,
        wanted_BL: Tensor,
        count: int | None = None,
        block_BL: Tensor | None = None,
    ) -> Tensor: ...

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, place_BK: Tensor, exists_BK: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def attended(self, tokens_BL: Tensor, attention_BL: Tensor, layers: int) -> tuple[Tensor, Tensor]: ...


class Cache(Protocol):
    """Logits from keys and values that are reused between steps; see decoding/cache.py."""

    def begin(self, rows_B: Tensor) -> None: ...

    def reach(self, wanted_BG: Tensor, inside_BG: Tensor) -> Tensor: ...

    def copy_rows(self, ancestor_B: Tensor) -> None: ...

    def logits(
        self,
        batch: Batch,
        row_R: Tensor,
        wanted_RG: Tensor,
        wanted: list[int],
        sources: tuple[list[int], int] | None = None,
    ) -> tuple[Tensor, list[int]]: ...
