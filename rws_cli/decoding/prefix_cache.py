"""Keys and values of the blocks before the one being decoded, for models that attend block by block. Exact.

A token of such a model attends to nothing after its block, so the keys and values of a block stay the same once its tokens
do (block diffusion, arXiv 2503.09573). What is stored is known by its tokens: a pass computes a row from the first block
whose tokens differ from the stored ones, so rows may be copied, restored or given another prompt at any time.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rws_cli.decoding.batch import Batch
from rws_cli.models.base import Denoiser, position_ids
from rws_cli.models.topology import visible_to

NOTHING = -1
"""In place of a token where nothing is stored, and on padding."""


class PrefixCache:
    """Stored keys and values (B, H, L + 1, D) of each layer; the last column takes what is not to be kept. stored_BL: the
    tokens that they belong to."""

    def __init__(self, denoiser: Denoiser, rows: int) -> None:
        self.denoiser, self.rows = denoiser, rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.stored_BL: Tensor | None = None

    def begin(self, rows_B: Tensor) -> None:
        """Nothing to do when rows begin a block."""

    def reach(self, wanted_BG: Tensor, inside_BG: Tensor) -> Tensor:
        """All wanted positions are computed."""
        return wanted_BG

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row what is stored for its ancestor."""
        if self.stored_BL is not None:
            self.stored_BL = self.stored_BL[ancestor_B]
            for n, (keys, values) in enumerate(self.layers):  # one by one: no second copy of all
                self.layers[n] = (keys[ancestor_B], values[ancestor_B])

    def logits(
        self,
        batch: Batch,
        row_R: Tensor,
        wanted_RG: Tensor,
        wanted: list[int],
        sources: tuple[list[int], int] | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Logits (N, V) at the wanted positions of some rows, in row-major order, and for each row the number of tokens that
        the model computed. wanted: the number of wanted positions of each row. sources: the rows of the cache that those of
        the batch read, if others, and how many of them, the first ones, are also stored."""
        tokens_BL = batch.tokens_BL.where(batch.attention_BL, NOTHING)
        length, device = tokens_BL.shape[1], tokens_BL.device
        if self.stored_BL is None:
            self.stored_BL = torch.full((self.rows, length), NOTHING, device=device)
        source_R, real = (row_R, len(row_R)) if sources is None else (torch.tensor(sources[0]).to(device), sources[1])
        open_R, end_R = (column_B[row_R] for column_B in batch.open_columns())
        block_RL, seen_RL = batch.attention_block_BL[row_R], batch.attention_BL[row_R]
        begin_R = self.first_missing(tokens_BL[row_R], self.stored_BL[source_R], block_RL).minimum(open_R)
        wanted_RL = torch.zeros((len(row_R), length + 1), dtype=torch.bool, device=device)
        wanted_RL[:, batch.start : length] = wanted_RG
        begin_R = begin_R.minimum(wanted_RL.to(torch.int8).argmax(1) - self.denoiser.shift)
        padding_R = seen_RL.to(torch.int8).argmax(1)
        table = torch.stack([end_R - begin_R, padding_R, end_R], 1).tolist()
        widths, paddings, ends = (list(column) for column in zip(*table, strict=True))
        width, left, right = max(widths), min(paddings), max(ends)
        column_RW = begin_R[:, None] + torch.arange(width + 1, device=device)
        inside_RW = column_RW[:, :-1] < end_R[:, None]
        index_RW = column_RW.clamp(max=length - 1)[:, :-1]
        sees_RWK = visible_to(block_RL.gather(1, index_RW), block_RL[:, left:right], seen_RL[:, left:right])
        window = _Window(
            self.layers, source_R, real, self.rows, index_RW.where(inside_RW, length), slice(left, right), length + 1
        )
        logits_NV = self.denoiser.forward(
            batch.tokens_BL[row_R].gather(1, index_RW),
            sees_RWK,
            wanted_RL.gather(1, column_RW.clamp(max=length)),
            position_ids(seen_RL).gather(1, index_RW),
            window,
            sum(wanted),
        ).float()
        kept_L = torch.arange(length, device=device)
        self.stored_BL[source_R[:real]] = tokens_BL[row_R].where(kept_L < open_R[:, None], NOTHING)[:real]
        return logits_NV, widths

    @staticmethod
    def first_missing(tokens_RL: Tensor, stored_RL: Tensor, block_RL: Tensor) -> Tensor:
        """The first column of the first block of which something is not stored, (R,)."""
        differs_RL = (tokens_RL != stored_RL) & (tokens_RL != NOTHING)
        first_R = torch.where(differs_RL.any(1), differs_RL.to(torch.int8).argmax(1), tokens_RL.shape[1] - 1)
        return (block_RL < block_RL.gather(1, first_R[:, None])).sum(1)


class _Window(DynamicCache):
    """What one pass sees: it stores the keys and values of a window, and attends to the columns of `context`. The first
    `real` rows are stored; drafts see the stored ones of their row, but for their own window."""

    def __init__(
        self,
        layers: list[tuple[Tensor, Tensor]],
        row_R: Tensor,
        real: int,
        rows: int,
        index_RW: Tensor,
        context: slice,
        length: int,
    ) -> None:
        super().__init__()
        self.stored_layers, self.row_R, self.real, self.rows = layers, row_R, real, rows
        self.index_RW, self.context, self.length = index_RW, context, length
        self.local_R = torch.arange(len(row_R), device=row_R.device)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        if layer_idx == len(self.stored_layers):
            shape = (self.rows, key_states.shape[1], self.length, key_states.shape[3])
            self.stored_layers.append((key_states.new_zeros(shape), value_states.new_zeros(shape)))
        seen = []
        for stored, new in zip(self.stored_layers[layer_idx], (key_states, value_states), strict=True):
            new = new.transpose(1, 2)
            stored[self.row_R[: self.real, None], :, self.index_RW[: self.real]] = new[: self.real]
            some = stored if self.real == len(self.row_R) == self.rows else stored[self.row_R]
            if self.real < len(self.row_R):
                some[self.local_R[:, None], :, self.index_RW] = new
            seen.append(some[:, :, self.context])
        return tuple(seen)
