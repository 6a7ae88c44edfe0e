"""Keys and values reused between steps (Fast-dLLM, arXiv 2505.22618). Approximate: they are some steps old.

A row's first pass in a block computes and stores the keys and values of all positions; so does every `refresh`-th pass
after it, if set. The passes between compute a window, from the block's first position to the end (prefix) or the block
alone (dual), and read the stored keys and values elsewhere.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rws_cli.decoding.batch import Batch
from rws_cli.models.base import Denoiser, position_ids


class BlockCache:
    """Stored keys and values (B, H, L, D) of each layer. age_B: passes of each row in its block."""

    def __init__(self, denoiser: Denoiser, kind: str, refresh: int | None, rows: int) -> None:
        self.denoiser, self.kind, self.refresh, self.rows = denoiser, kind, refresh, rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.age_B = torch.zeros(rows, dtype=torch.int64, device=denoiser.device)

    def begin(self, rows_B: Tensor) -> None:
        """The rows in rows_B begin a block: what is stored for them is stale."""
        self.age_B.masked_fill_(rows_B, 0)

    @property
    def stale_B(self) -> Tensor:
        """Rows whose next pass computes the whole sequence."""
        return (self.age_B % self.refresh if self.refresh else self.age_B) == 0

    def reach(self, wanted_BG: Tensor, inside_BG: Tensor) -> Tensor:
        """The wanted positions that the next pass computes. inside_BG: positions being decoded."""
        return wanted_BG & (self.stale_B[:, None] | inside_BG) if self.kind == "dual" else wanted_BG

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row the stored state of its ancestor."""
        self.age_B = self.age_B[ancestor_B]
        for n, (keys, values) in enumerate(self.layers):  # one by one: no second copy of all
            self.layers[n] = (keys[ancestor_B], values[ancestor_B])

    def logits(self, batch: Batch, row_R: Tensor, wanted_RG: Tensor, wanted: list[int]) -> tuple[Tensor, list[int]]:
        """Logits (N, V) at the wanted positions of some rows, and for each row the tokens that the model computed. Rows with
        the same window share a forward pass. wanted: the number of wanted positions of each row."""
        tokens_RL, seen_RL = batch.tokens_BL[row_R], batch.attention_BL[row_R]
        wanted_RL = torch.zeros_like(seen_RL)
        wanted_RL[:, batch.start :] = wanted_RG
        begin_R, end_R, tokens_R = self.windows(batch, row_R)
        table = torch.stack([begin_R, end_R, tokens_R], 1).tolist()
        shared: dict[tuple[int, int], list[int]] = {}
        for number, (begin, end, _) in enumerate(table):
            shared.setdefault((begin, end), []).append(number)
        logits: dict[int, Tensor] = {}
        for (begin, end), these in shared.items():
            is_in_R = (begin_R == begin) & (end_R == end)
            these_S = is_in_R.to(torch.int8).argsort(descending=True, stable=True)[: len(these)]
            seen, wanted_SQ = seen_RL[these_S], wanted_RL[these_S, begin:end]
            counts = [wanted[number] for number in these]
            rows_S = slice(None) if len(these) == self.rows else row_R[these_S]  # a slice takes no copy
            window = WindowCache(self.layers, rows_S, self.rows, slice(begin, end), tokens_RL.shape[1])
            logits_NV = self.denoiser.forward(
                tokens_RL[these_S, begin:end],
                seen[:, None, :].expand(-1, end - begin, -1),
                wanted_SQ,
                position_ids(seen)[:, begin:end],
                window,
                sum(counts),
            ).float()
            logits |= dict(zip(these, logits_NV.split(counts), strict=True))
        self.age_B = self.age_B.index_add(0, row_R, torch.ones_like(row_R))
        logits_NV = torch.cat([logits[row] for row in range(len(table))]) if len(shared) > 1 else logits_NV
        return logits_NV, [count for _, _, count in table]

    def windows(self, batch: Batch, row_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first column of each row's window, the one after its last, and its tokens without padding; (R,) each."""
        length, inside_RG = batch.tokens_BL.shape[1], batch.inside_BG[row_R].to(torch.int8)
        stale_R, start = self.stale_B[row_R], batch.start
        begin_R = start + inside_RG.argmax(1) - self.denoiser.shift
        end_R = start + inside_RG.shape[1] - inside_RG.flip(1).argmax(1)
        if self.kind == "prefix":
            end_R = torch.full_like(end_R, length)
        begin_R, end_R = begin_R.masked_fill(stale_R, 0), end_R.masked_fill(stale_R, length)
        column_L = torch.arange(length, device=begin_R.device)
        computed_RL = (column_L >= begin_R[:, None]) & (column_L < end_R[:, None]) & batch.attention_BL[row_R]
        return begin_R, end_R, computed_RL.sum(1)


class WindowCache(DynamicCache):
    """The cache that one forward pass sees. What the pass computes for its window is stored; nothing reads it later,
    because every pass of the block computes the window again, but so nothing has to be copied."""

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], rows_S: Tensor | slice, rows: int, window: slice, length: int
    ) -> None:
        super().__init__()
        self.stored_layers, self.rows_S, self.rows, self.window = layers, rows_S, rows, window
        self.whole = window == slice(0, length)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        if layer_idx == len(self.stored_layers):
            shape = (self.rows, *key_states.shape[1:])
            self.stored_layers.append((key_states.new_zeros(shape), value_states.new_zeros(shape)))
        keys, values = self.stored_layers[layer_idx]
        keys[self.rows_S, :, self.window], values[self.rows_S, :, self.window] = key_states, value_states
        return (key_states, value_states) if self.whole else (keys[self.rows_S], values[self.rows_S])
