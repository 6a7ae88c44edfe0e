"""Keys and values kept between steps (Fast-dLLM, arXiv 2505.22618). Approximate: what is kept was true some steps ago.

A row's first pass in a block goes through its whole sequence, and keeps the keys and values of all positions; so does
every `refresh`-th pass after it, if asked. The passes between go through a window, and read the rest as it was kept:
from the block's first position to the end (prefix), or the block alone (dual).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rws_cli.decoding.batch import Batch
from rws_cli.models.base import Denoiser, position_ids


class BlockCache:
    """What is kept of a batch: keys and values (B, H, L, D) of each layer; age_B counts a row's passes in its block."""

    def __init__(self, denoiser: Denoiser, kind: str, refresh: int | None, rows: int) -> None:
        self.denoiser, self.kind, self.refresh, self.rows = denoiser, kind, refresh, rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.age_B = torch.zeros(rows, dtype=torch.int64, device=denoiser.device)

    def begin(self, rows_B: Tensor) -> None:
        """Some rows (a mask) begin a block: what was kept of them is stale."""
        self.age_B.masked_fill_(rows_B, 0)

    @property
    def stale_B(self) -> Tensor:
        """Rows whose next pass goes through the whole sequence."""
        return (self.age_B % self.refresh if self.refresh else self.age_B) == 0

    def reach(self, wanted_BG: Tensor, inside_BG: Tensor) -> Tensor:
        """Those of the wanted positions whose logits the next pass has; inside_BG: the rows' blocks."""
        return wanted_BG & (self.stale_B[:, None] | inside_BG) if self.kind == "dual" else wanted_BG

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Let each row have what its ancestor has."""
        self.age_B = self.age_B[ancestor_B]
        self.layers = [(keys[ancestor_B], values[ancestor_B]) for keys, values in self.layers]

    def logits(self, batch: Batch, rows: list[int], wanted_RG: Tensor) -> tuple[Tensor, list[int]]:
        """Logits (N, V) at the wanted positions of some rows, and the tokens that went through the model for each row.
        Rows whose passes go through the same window make one together."""
        rows_R = torch.tensor(rows, device=wanted_RG.device)
        tokens_RL, seen_RL = batch.tokens_BL[rows_R], batch.attention_BL[rows_R]
        wanted_RL = torch.zeros_like(seen_RL)
        wanted_RL[:, batch.start :] = wanted_RG
        found: dict[int, Tensor] = {}
        tokens = [0] * len(rows)
        for columns, these in self.windows(batch, rows_R).items():
            at = torch.tensor(these, device=rows_R.device)
            seen, wanted_SQ = seen_RL[at], wanted_RL[at, columns[0] : columns[1]]
            kept = WindowCache(self.layers, rows_R[at], self.rows, slice(*columns), tokens_RL.shape[1])
            logits_NV = self.denoiser.forward(
                tokens_RL[at, columns[0] : columns[1]],
                seen[:, None, :].expand(-1, wanted_SQ.shape[1], -1),
                wanted_SQ,
                position_ids(seen)[:, columns[0] : columns[1]],
                kept,
            ).float()
            found |= dict(zip(these, logits_NV.split(wanted_SQ.sum(1).tolist()), strict=True))
            for row, count in zip(these, seen[:, columns[0] : columns[1]].sum(1).tolist(), strict=True):
                tokens[row] = count
        self.age_B[rows_R] += 1
        return torch.cat([found[row] for row in range(len(rows))]), tokens

    def windows(self, batch: Batch, rows_R: Tensor) -> dict[tuple[int, int], list[int]]:
        """First and last column of each row's pass, with the numbers of the rows that share them."""
        length, inside_RG = batch.tokens_BL.shape[1], batch.inside_BG[rows_R].to(torch.int8)
        last_R = inside_RG.shape[1] - inside_RG.flip(1).argmax(1)
        table = torch.stack([self.stale_B[rows_R].long(), inside_RG.argmax(1), last_R], 1).tolist()
        shared: dict[tuple[int, int], list[int]] = {}
        for number, (stale, first, last) in enumerate(table):
            end = length if self.kind == "prefix" else batch.start + last
            columns = (0, length) if stale else (batch.start + first - self.denoiser.shift, end)
            shared.setdefault(columns, []).append(number)
        return shared


class WindowCache(DynamicCache):
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
