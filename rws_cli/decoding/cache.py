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
        self.layers = [(keys[ancestor_B], values[ancestor_B]) for keys, values in self.layers]

    def logits(self, batch: Batch, rows: list[int], wanted_RG: Tensor) -> tuple[Tensor, list[int]]:
        """Logits (N, V) at the wanted positions of some rows, and for each row the tokens that the model computed. Rows with
        the same window share a forward pass."""
        rows_R = torch.tensor(rows, device=wanted_RG.device)
        tokens_RL, seen_RL = batch.tokens_BL[rows_R], batch.attention_BL[rows_R]
        wanted_RL = torch.zeros_like(seen_RL)
        wanted_RL[:, batch.start :] = wanted_RG
        logits: dict[int, Tensor] = {}
        tokens = [0] * len(rows)
        for columns, these in self.windows(batch, rows_R).items():
            these_S = torch.tensor(these, device=rows_R.device)
            seen, wanted_SQ = seen_RL[these_S], wanted_RL[these_S, columns[0] : columns[1]]
            window = WindowCache(self.layers, rows_R[these_S], self.rows, slice(*columns), tokens_RL.shape[1])
            logits_NV = self.denoiser.forward(
                tokens_RL[these_S, columns[0] : columns[1]],
                seen[:, None, :].expand(-1, wanted_SQ.shape[1], -1),
                wanted_SQ,
                position_ids(seen)[:, columns[0] : columns[1]],
                window,
            ).float()
            logits |= dict(zip(these, logits_NV.split(wanted_SQ.sum(1).tolist()), strict=True))
            for row, count in zip(these, seen[:, columns[0] : columns[1]].sum(1).tolist(), strict=True):
                tokens[row] = count
        self.age_B[rows_R] += 1
        return torch.cat([logits[row] for row in range(len(rows))]), tokens

    def windows(self, batch: Batch, rows_R: Tensor) -> dict[tuple[int, int], list[int]]:
        """First and last column of a window → the rows (indices into rows_R) that use it."""
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
    """The cache that one forward pass sees: keys and values of the window among the stored ones. A pass over the whole
    sequence stores what it computes."""

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], rows_S: Tensor, rows: int, window: slice, length: int
    ) -> None:
        super().__init__()
        self.stored_layers, self.rows_S, self.rows, self.window = layers, rows_S, rows, window
        self.whole = window == slice(0, length)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        if not self.whole:
            keys, values = (stored[self.rows_S] for stored in self.stored_layers[layer_idx])
            keys[:, :, self.window], values[:, :, self.window] = key_states, value_states
            return keys, values
        if layer_idx == len(self.stored_layers):
            shape = (self.rows, *key_states.shape[1:])
            self.stored_layers.append((key_states.new_zeros(shape), value_states.new_zeros(shape)))
        keys, values = self.stored_layers[layer_idx]
        keys[self.rows_S], values[self.rows_S] = key_states, value_states
        return key_states, value_states
