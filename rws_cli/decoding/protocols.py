"""What the loop asks of models and caches."""

from typing import Protocol

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch


class Denoiser(Protocol):
    """A masked diffusion model: for each wanted position (B, L), in row-major order, the logits (N, V), float32. count: N,
    if it is known.

    `dtype` is that of the weights, read for confidence=model_dtype alone. `shadowed` answers for a block that is asked
    about a second time, blind to what stands there; only WINO calls it.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def logits(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, count: int | None = None
    ) -> Tensor: ...

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, place_BK: Tensor, exists_BK: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class Cache(Protocol):
    """Logits with keys and values that are kept from step to step; see decoding/cache.py."""

    def begin(self, rows_B: Tensor) -> None: ...

    def reach(self, wanted_BG: Tensor, inside_BG: Tensor) -> Tensor: ...

    def copy_rows(self, ancestor_B: Tensor) -> None: ...

    def logits(self, batch: Batch, rows: list[int], wanted_RG: Tensor) -> tuple[Tensor, list[int]]: ...
