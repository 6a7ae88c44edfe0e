"""The rows of a batch and their state. No row depends on another.

Shapes: B rows; L columns of prompt and completion; G positions of the completion, the last G of the L columns.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.noise import row_key
from rws_cli.models.topology import FULL, Topology


@dataclass(frozen=True)
class Prompt:
    """What a row starts from.

    ids: token ids of the prompt. key: of the row's random numbers (noise.row_key). length: of the completion, if shorter
    than the batch's. fixed: completion tokens that decoding must not change, position → token. block_ends: where blocks
    end, if not where the model's topology and the sampler's block_length put them.
    """

    ids: list[int]
    key: int
    length: int | None = None
    fixed: dict[int, int] = field(default_factory=dict)
    block_ends: Sequence[int] | None = None


AFTER = 1 << 40
"""The block of attention of padding after the completion."""


class Memory:
    """Tensors that parts keep between steps, each with a row for every row of the batch."""

    def __init__(self, rows: int, device: torch.device | str) -> None:
        self.rows, self.device = rows, device
        self.values: dict[str, Tensor] = {}
        self.initial: dict[str, float] = {}

    def get(self, name: str, initial: float, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """The tensor (B, *shape) of this name. It may be written in place; new rows hold `initial`."""
        if name not in self.values:
            self.initial[name] = initial
            self.values[name] = torch.full((self.rows, *shape), initial, dtype=dtype, device=self.device)
        return self.values[name]

    def forget(self, rows: Sequence[int]) -> None:
        """Reset these rows, which other examples take."""
        for name, value in self.values.items():
            for row in rows:
                value[row] = self.initial[name]


Saved = dict[str, Tensor]
"""Saved row states: name of a tensor → its values."""

PROMPT_FIELDS = ("key_B", "tokens_BL", "block_BG", "retained_B")
"""Fields that stay when rows are copied."""


@dataclass(frozen=True)
class Insertion:
    """Tokens to put into completions: in each row count_B of them, (B,), before position_B; masks, or end tokens in the rows
    in ends_B."""

    position_B: Tensor
    count_B: Tensor
    ends_B: Tensor


@dataclass
class Batch:
    """The state of all rows.

    tokens_BL: token ids, int64; masked positions hold mask_id, and what follows a completion holds end_id. attention_BL:
    False on padding. start: the column at which completions begin. key_B: keys of random numbers. length_B: positions of the
    row's completion; what follows is padding. free_BG: positions that decoding may write: not fixed, and within this length.
    has_fixed: whether any token is fixed. block_BG: the block of each position, from 0; blocks_B: the number of blocks.
    attention_block_BL: the block of each column in the model's attention (models/topology.py), −1 on padding before the
    prompt.

    Where a row is: block_B; round_B, how often remasking has reopened the block; index_B, the step within the round;
    first_B, the step number at index 0; inside_BG, the positions being decoded; started_B, how many of these were masked
    at index 0. commit_p_BG: each token's probability when it was committed. retained_B: rows that repeat the completion of
    an earlier sweep. widest: positions of the largest block so far.
    """

    tokens_BL: Tensor
    attention_BL: Tensor
    start: int
    mask_id: int
    end_id: int
    key_B: Tensor
    attention_block_BL: Tensor
    length_B: Tensor
    free_BG: Tensor
    block_BG: Tensor
    blocks_B: Tensor
    block_B: Tensor
    round_B: Tensor
    index_B: Tensor
    first_B: Tensor
    started_B: Tensor
    inside_BG: Tensor
    commit_p_BG: Tensor
    retained_B: Tensor
    memory: Memory
    topology: Topology = FULL
    widest: int = 0
    has_fixed: bool = False

    @property
    def completion_BG(self) -> Tensor:
        """A view of the completions; writing to it writes the batch."""
        return self.tokens_BL[:, self.start :]

    @property
    def masked_BG(self) -> Tensor:
        return (self.completion_BG == self.mask_id) & self.free_BG

    @property
    def live_B(self) -> Tensor:
        """Rows that are still decoding."""
        return self.block_B < self.blocks_B

    @property
    def step_B(self) -> Tensor:
        """Each row's step number in its whole decoding, from 0; for random numbers and traces."""
        return self.first_B + self.index_B

    def _rows(self) -> dict[str, Tensor]:
        """All tensors whose first dimension is the row."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith(("_B", "_BL", "_BG"))}

    def enter(self, prompts: dict[int, Prompt], pad_id: int, block_length: int) -> None:
        """Put prompts into rows: masks everything but fixed tokens, and resets the rows' memory."""
        gen_length = self.free_BG.shape[1]
        rows, table = list(prompts), []
        for prompt in prompts.values():
            end = gen_length if prompt.length is None else prompt.length
            pad, behind = self.start - len(prompt.ids), gen_length - end
            ends = prompt.block_ends or self.topology.block_ends(len(prompt.ids), gen_length, block_length)
            block = [bisect_right(ends, n) for n in range(gen_length)]
            attention_block = self.topology.blocks(len(prompt.ids), end)
            self.widest = max(self.widest, *map(block.count, block))
            self.has_fixed |= bool(prompt.fixed)
            table.append(
                [pad_id] * pad + prompt.ids + [prompt.fixed.get(n, self.mask_id) for n in range(end)]
                + [self.end_id] * behind
                + [0] * pad + [1] * (len(prompt.ids) + end) + [0] * behind
                + [-1] * pad + attention_block + [AFTER] * behind
                + [int(n < end and n not in prompt.fixed) for n in range(gen_length)]
                + block + [prompt.key, max(block[:end]) + 1, end]
            )  # fmt: skip
        length, device = self.tokens_BL.shape[1], self.tokens_BL.device
        row_R = torch.tensor([rows]).T.to(device)[:, 0]
        sizes = [length, length, length, gen_length, gen_length, 3]
        tokens, attention, seen_from, free, block_RG, scalars = torch.tensor(table).to(device).split(sizes, 1)
        self.tokens_BL[row_R], self.attention_BL[row_R], self.free_BG[row_R] = tokens, attention.bool(), free.bool()
        self.attention_block_BL[row_R] = seen_from
        self.block_BG[row_R] = block_RG
        self.key_B[row_R], self.blocks_B[row_R], self.length_B[row_R] = scalars.unbind(1)
        for value in (self.block_B, self.round_B, self.index_B, self.first_B, self.commit_p_BG):
            value[row_R] = 0
        self.inside_BG[row_R] = free.bool() & (block_RG == 0)
        self.started_B[row_R] = (self.masked_BG & self.inside_BG)[row_R].sum(-1)
        self.memory.forget(rows)

    def ends(self) -> Tensor:
        """The column after the last one that each row's next pass computes, (B,)."""
        return self.start + self.length_B if self.topology.block_size is None else self.open_columns()[1]

    def before_fixed(self) -> Tensor:
        """Positions (B, G) before the row's last fixed token, which an end token would cut off."""
        position_G = torch.arange(self.free_BG.shape[1], device=self.free_BG.device)
        fixed_BG = ~self.free_BG & (position_G < self.length_B[:, None])
        return fixed_BG.flip(1).cumsum(1).flip(1) > 0

    def open_columns(self) -> tuple[Tensor, Tensor]:
        """Of each row, the first column of the block of attention that is being decoded, and the column after the last one
        that its next pass computes, (B,) each.

        That is the end of this block, but its start where the first token of a block has a step of its own.
        """
        first_B = self.start + self.inside_BG.to(torch.int8).argmax(1)
        open_B = self.attention_block_BL.gather(1, first_B[:, None])
        begin_B = (self.attention_block_BL < open_B).sum(1)
        end_B = begin_B + (self.attention_block_BL == open_B).sum(1)
        if self.topology.first_token:
            before_BL = self.attention_BL.cumsum(1).gather(1, first_B[:, None])[:, 0] > 1
            end_B = torch.where((first_B == begin_B) & before_BL, begin_B, end_B)
        return begin_B, end_B

    def reach(self) -> Tensor:
        """Positions (B, G) whose logits the next pass can give: in the block of attention that is being decoded, or before
        it. All, if attention is not by blocks."""
        if self.topology.block_size is None:
            return torch.ones_like(self.inside_BG)
        begin_B, end_B = self.open_columns()
        column_G = torch.arange(self.start, self.tokens_BL.shape[1], device=begin_B.device)
        return column_G < torch.where(begin_B == end_B, end_B + 1, end_B)[:, None]

    def mask(self, again_BG: Tensor | None) -> Tensor | None:
        """Mask positions again; returns those that could be and were not masked already."""
        if again_BG is None:
            return None
        again_BG = again_BG & self.free_BG & ~self.masked_BG & self.live_B[:, None]
        self.completion_BG.masked_fill_(again_BG, self.mask_id)
        return again_BG

    def stop_after_end(self, end_E: Tensor) -> None:
        """After an end token with no mask before it, replace the remaining masks with end tokens."""
        masked_BG = self.masked_BG
        ended_BG = torch.isin(self.completion_BG, end_E) & (masked_BG.cumsum(-1) == 0)
        stopped_BG = ended_BG.any(-1, keepdim=True) & masked_BG
        self.completion_BG.copy_(torch.where(stopped_BG, end_E[0], self.completion_BG))

    def stop_at_end(self, ended_B: Tensor, end_E: Tensor) -> Tensor:
        """Of the rows whose block is done, those with an end token, (B,); their remaining masks become end tokens."""
        stopped_B = ended_B & torch.isin(self.completion_BG.where(self.free_BG, -1), end_E).any(-1)
        self.completion_BG.masked_fill_(self.masked_BG & stopped_B[:, None], end_E[0])
        return stopped_B

    def begin_block(self, rows_B: Tensor, block_B: Tensor, round_B: Tensor, first_B: Tensor, inside_BG: Tensor) -> None:
        """Let the rows in rows_B start on the positions inside_BG."""
        self.block_B, self.round_B = (
            torch.where(rows_B, block_B, self.block_B),
            torch.where(rows_B, round_B, self.round_B),
        )
        self.first_B, self.index_B = torch.where(rows_B, first_B, self.first_B), self.index_B.masked_fill(rows_B, 0)
        self.inside_BG = torch.where(rows_B[:, None], inside_BG & self.free_BG, self.inside_BG)
        self.started_B = torch.where(rows_B, (self.masked_BG & self.inside_BG).sum(-1), self.started_B)

    def insert(self, new: Insertion) -> dict[str, Tensor | None]:
        """Put tokens into completions, as far as there is room; the tokens behind them move to the right. Returns what traces
        need. Only for models that attend to everything."""
        gen_length = self.free_BG.shape[1]
        position_G = torch.arange(gen_length, device=self.free_BG.device)
        count_B = new.count_B.minimum(gen_length - self.length_B)
        first_B1, count_B1 = new.position_B[:, None], count_B[:, None]
        source_BG = (position_G - count_B1 * (position_G >= first_B1 + count_B1)).clamp(min=0)
        is_new_BG = (position_G >= first_B1) & (position_G < first_B1 + count_B1)
        token_B1 = torch.where(new.ends_B, self.end_id, self.mask_id)[:, None]
        self.completion_BG.copy_(torch.where(is_new_BG, token_B1, self.completion_BG.gather(1, source_BG)))
        self.free_BG = self.free_BG.gather(1, source_BG) | is_new_BG
        self.commit_p_BG = self.commit_p_BG.gather(1, source_BG).masked_fill(is_new_BG, 0.0)
        for name, value in self.memory.values.items():
            if value.shape[1:2] == (gen_length,):
                moved = value[torch.arange(len(value), device=value.device)[:, None], source_BG]
                moved[is_new_BG] = self.memory.initial[name]
                self.memory.values[name] = moved
        self.length_B = self.length_B + count_B
        exists_BG = position_G < self.length_B[:, None]
        self.attention_BL[:, self.start :] = exists_BG
        self.attention_block_BL[:, self.start :] = torch.where(exists_BG, 0, AFTER)
        self.blocks_B = self.block_BG.masked_fill(~exists_BG, -1).amax(1) + 1
        in_block_BG = (self.block_BG == self.block_B[:, None]) & self.free_BG
        self.inside_BG = torch.where(count_B1 > 0, in_block_BG, self.inside_BG)
        return {"inserted_at": new.position_B, "inserted": count_B}

    def lengthen(self, ended_B: Tensor, next_B: Tensor, end_E: Tensor) -> Tensor:
        """Add masks to the end of a block to completions that are full and have no end token; the next block of each row.

        ended_B: rows whose block is done; next_B: their next block. A completion whose last token is fixed stays as it is.
        """
        gen_length, last_B = self.free_BG.shape[1], self.length_B - 1
        position_G = torch.arange(gen_length, device=self.free_BG.device)
        ends_BG = torch.isin(self.completion_BG, end_E) & (position_G < self.length_B[:, None])
        is_open_B = self.free_BG.gather(1, last_B.clamp(min=0)[:, None])[:, 0] & ~ends_BG.any(1)
        grows_B = ended_B & (next_B >= self.blocks_B) & is_open_B & (self.length_B < gen_length)
        block_B = self.block_BG.gather(1, self.length_B.clamp(max=gen_length - 1)[:, None])[:, 0]
        count_B = (self.block_BG <= block_B[:, None]).sum(1) - self.length_B
        self.insert(Insertion(self.length_B, count_B * grows_B, torch.zeros_like(grows_B)))
        return torch.where(grows_B, block_B, next_B)

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row the state of its ancestor; keys and prompts stay."""
        tokens_BL = self.tokens_BL.clone()
        tokens_BL[:, self.start :] = self.completion_BG[ancestor_B]
        for name, value in (self._rows() | {"tokens_BL": tokens_BL}).items():
            if name not in PROMPT_FIELDS:
                setattr(self, name, value[ancestor_B])
        self.tokens_BL = tokens_BL
        self.memory.values = {name: value[ancestor_B] for name, value in self.memory.values.items()}

    def copy(self) -> "Batch":
        """A copy that shares no memory."""
        memory = Memory(self.memory.rows, self.memory.device)
        memory.values = {name: value.clone() for name, value in self.memory.values.items()}
        memory.initial = dict(self.memory.initial)
        rows: Any = {name: value.clone() for name, value in self._rows().items()}
        return replace(self, memory=memory, **rows)

    def some_rows(self, row_R: Tensor) -> "Batch":
        """A copy of some rows. Memory is shared."""
        rows: Any = {name: value[row_R] for name, value in self._rows().items()}
        return replace(self, **rows)

    def save(self, rows_B: Tensor, saved: Saved | None = None) -> Saved:
        """A copy of the state of the rows in rows_B, for `restore`; for other rows the earlier copy stays."""
        now = self._rows() | {f"memory.{name}": value for name, value in self.memory.values.items()}
        return {name: _where_rows(rows_B, value, (saved or now).get(name, value)) for name, value in now.items()}

    def restore(self, saved: Saved, rows_B: Tensor) -> None:
        """Restore the rows in rows_B to a saved state. What a search keeps in memory stays."""
        for name, value in self._rows().items():
            setattr(self, name, _where_rows(rows_B, saved[name], value))
        for name, value in self.memory.values.items():
            if not name.startswith("search."):
                before = saved.get(f"memory.{name}", torch.full_like(value, self.memory.initial[name]))
                self.memory.values[name] = _where_rows(rows_B, before, value)


def _where_rows(rows_B: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows_B.view(-1, *[1] * (a.dim() - 1)), a, b)


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of the same shape. Memory is that of the first."""
    rows = [batch._rows() for batch in batches]
    every: Any = {name: torch.cat([each[name] for each in rows]) for name in rows[0]}
    return replace(batches[0], **every)


def new_batch(
    rows: int,
    longest_prompt: int,
    gen_length: int,
    mask_id: int,
    pad_id: int,
    device: torch.device | str,
    topology: Topology = FULL,
    end_id: int | None = None,
) -> Batch:
    """A batch of unused rows: none of their positions is free, so nothing is decoded. end_id: None: pad_id."""
    length = longest_prompt + gen_length
    zeros_B = torch.zeros(rows, dtype=torch.int64, device=device)
    nothing_BG = torch.zeros((rows, gen_length), dtype=torch.bool, device=device)
    return Batch(
        tokens_BL=torch.full((rows, length), pad_id, device=device),
        attention_BL=torch.zeros((rows, length), dtype=torch.bool, device=device),
        start=longest_prompt,
        mask_id=mask_id,
        end_id=pad_id if end_id is None else end_id,
        key_B=zeros_B.clone(),
        attention_block_BL=torch.full((rows, length), -1, device=device),
        length_B=zeros_B.clone(),
        free_BG=nothing_BG.clone(),
        block_BG=torch.zeros((rows, gen_length), dtype=torch.int64, device=device),
        blocks_B=zeros_B.clone(),
        block_B=zeros_B.clone(),
        round_B=zeros_B.clone(),
        index_B=zeros_B.clone(),
        first_B=zeros_B.clone(),
        started_B=zeros_B.clone(),
        inside_BG=nothing_BG.clone(),
        commit_p_BG=torch.zeros((rows, gen_length), dtype=torch.float64, device=device),
        retained_B=zeros_B.bool(),
        memory=Memory(rows, device),
        topology=topology,
    )


def prompt_of(
    ids: list[int],
    seed: int,
    example: str,
    canvas: Sequence[int] = (),
    mask_id: int = -1,
    length: int | None = None,
    block_ends: Sequence[int] | None = None,
) -> Prompt:
    """The prompt of an example; its random numbers follow from the seed and the example's id.

    canvas: the completion's tokens at the start, mask_id where one is to be decoded; empty: nothing but masks, `length` of
    them. block_ends: as in Prompt.
    """
    fixed = {position: token for position, token in enumerate(canvas) if token != mask_id}
    return Prompt(ids, row_key(seed, example), len(canvas) or length, fixed, block_ends)
