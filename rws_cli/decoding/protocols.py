"""What the loop asks of the models, caches, rewards and searches that it is given."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.record import RowTrace


class Denoiser(Protocol):
    """A masked diffusion model: for each wanted position (B, L), in row-major order, the logits (N, V), float32.

    `dtype` is that of the weights, read for confidence=model_dtype alone. `shadowed` answers for a block that is asked
    about a second time, blind to what stands there; only WINO calls it.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor) -> Tensor: ...

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, block_L: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class Cache(Protocol):
    """Logits with keys and values that are kept from step to step; see models/cache.py."""

    def begin(self) -> None: ...

    def reach(self, wanted_BG: Tensor, inside_G: Tensor) -> Tensor: ...

    def copy_rows(self, ancestor_B: Tensor) -> None: ...

    def logits(self, part: Canvas, rows_R: Tensor, wanted_RG: Tensor, inside_G: Tensor) -> tuple[Tensor, list[int]]: ...


class Scorer(Protocol):
    """Scores the texts of some rows: (rows, filled response tokens (B, G), share filled, step) → a score for each.

    `statistics` normalizes the scores. The scorer charges its calls to the rows' costs.
    """

    statistics: Statistics

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]: ...


class Mover(Protocol):
    """Moves the logits (N, V) at the wanted positions (B, G) of some rows, as gradient guidance does. It charges its
    calls to the rows' costs."""

    def __call__(self, rows: list[int], canvas: Canvas, logits_NV: Tensor, wanted_BG: Tensor, step: int) -> Tensor: ...


class Particles(Protocol):
    """Rows in groups that answer one prompt, and are weighed and copied as the loop goes; see search.py.

    reads_all: whether `weigh` needs the logits of all masked positions, not only of those that a step may commit.
    """

    @property
    def reads_all(self) -> bool: ...

    def weigh(
        self, canvas: Canvas, active_B: Tensor, logits_NV: Tensor, wanted_BG: Tensor, step: int
    ) -> Tensor | None: ...

    def committed(self, canvas: Canvas, traces: list[RowTrace], log_p_B: Tensor, step: int) -> None: ...

    def block_ended(self, step: int) -> Tensor | None: ...
