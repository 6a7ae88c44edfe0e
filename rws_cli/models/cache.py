"""Keys and values kept between steps (Fast-dLLM, arXiv 2505.22618). Approximate: what is kept was true some steps ago.

A row's first pass in a block goes through its whole sequence, and keeps the keys and values of all positions; so does
every `refresh`-th pass after it, if asked. The passes between go through a window, and read the rest as it was kept:
from the block's first position to the end (prefix), or the block alone (dual).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rws_cli.decoding.canvas import Canvas
from rws_cli.models.base import Denoiser, position_ids


class BlockCache:
    """What is kept of a batch: keys and values (B, H, L, D) of each layer; age_B counts a row's passes in the block."""

    def __init__(self, denoiser: Denoiser, kind: str, refresh: int | None, rows: int) -> None:
        self.denoiser, self.kind, self.refresh, self.rows = denoiser, kind, refresh, rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.age_B = torch.zeros(rows, dtype=torch.int64, device=denoiser.device)

    def begin(self) -> None:
        """A block begins: what was kept is stale."""
        self.age_B.zero_()

    @property
    def stale_B(self) -> Tensor:
        """Rows whose next pass goes through the whole sequence."""
        return (self.age_B % self.refresh if self.refresh else self.age_B) == 0

    def reach(self, wanted_BG: Tensor, inside_G: Tensor) -> Tensor:
        """Those of the wanted positions whose logits the next pass has; inside_G: the block."""
        return wanted_BG & (self.stale_B[:, None] | inside_G) if self.kind == "dual" else wanted_BG

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Let each row have what its ancestor has."""
        self.age_B = self.age_B[ancestor_B]
        self.layers = [(keys[ancestor_B], values[ancestor_B]) for keys, values in self.layers]

    def logits(self, part: Canvas, rows_R: Tensor, wanted_RG: Tensor, inside_G: Tensor) -> tuple[Tensor, list[int]]:
        """Logits (N, V) at the wanted positions of some rows, and the tokens that went through the model for each row."""
        length, place = part.tokens_BL.shape[1], inside_G.nonzero()[:, 0]
        first = part.start + int(place[0]) - self.denoiser.shift
        window = slice(first, length if self.kind == "prefix" else part.start + int(place[-1]) + 1)
        stale_R = self.stale_B[rows_R]
        wanted_RL = torch.zeros_like(part.attention_BL)
        wanted_RL[:, part.start :] = wanted_RG
        found: dict[int, Tensor] = {}
        tokens = [0] * len(rows_R)
        for which_R, columns in ((stale_R, slice(0, length)), (~stale_R, window)):
            these = which_R.nonzero()[:, 0]
            if not len(these):
                continue
            seen, wanted_SQ = part.attention_BL[these], wanted_RL[these, columns]
            kept = _Kept(self.layers, rows_R[these], self.rows, columns, length)
            logits_NV = self.denoiser.forward(
                part.tokens_BL[these, columns],
                seen[:, None, :].expand(-1, wanted_SQ.shape[1], -1),
                wanted_SQ,
                position_ids(seen)[:, columns],
                kept,
            ).float()
            sizes = wanted_SQ.sum(1).tolist()
            found |= dict(zip(these.tolist(), logits_NV.split(sizes), strict=True))
            for row, count in zip(these.tolist(), seen[:, columns].sum(1).tolist(), strict=True):
                tokens[row] = count
        self.age_B[rows_R] += 1
        return torch.cat([found[row] for row in range(len(rows_R))]), tokens


class _Kept(DynamicCache):
    """What the attention layers of one pass are given for a cache: it puts the keys and values of the window among those
    kept. A pass through everything keeps what it computes."""

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], rows_S: Tensor, rows: int, window: slice, length: int
    ) -> None:
        super().__init__()
        self.kept, self.rows_S, self.rows, self.window = layers, rows_S, rows, window
        self.whole = window == slice(0, length)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        if not self.whole:
            keys, values = (kept[self.rows_S] for kept in self.kept[layer_idx])
            keys[:, :, self.window], values[:, :, self.window] = key_states, value_states
            return keys, values
        if layer_idx == len(self.kept):
            shape = (self.rows, *key_states.shape[1:])
            self.kept.append((key_states.new_zeros(shape), value_states.new_zeros(shape)))
        keys, values = self.kept[layer_idx]
        keys[self.rows_S], values[self.rows_S] = key_states, value_states
        return key_states, value_states
