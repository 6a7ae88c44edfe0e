"""The rows of a batch and their state. No row depends on another.

Shapes: B rows; L columns of prompt and completion; G positions of the completion, the last G of the L columns.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

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

PROMPT_FIELDS = (
    "key_B", "tokens_BL", "attention_BL", "attention_block_BL", "free_BG", "block_BG", "blocks_B", "retained_B"
)  # fmt: skip
"""Fields that stay when rows are copied."""


@dataclass
class Batch:
    """The state of all rows.

    tokens_BL: token ids, int64; masked positions hold mask_id. attention_BL: False on padding. start: the column at which
    completions begin. key_B: keys of random numbers. free_BG: positions that decoding may write: not fixed, and within the
    row's length. block_BG: the block of each position, from 0; blocks_B: the number of blocks. attention_block_BL: the
    block of each column in the model's attention (models/topology.py), −1 on padding before the prompt.

    Where a row is: block_B; round_B, how often remasking has reopened the block; index_B, the step within the round;
    first_B, the step number at index 0; inside_BG, the positions being decoded; started_B, how many of these were masked
    at index 0. commit_p_BG: each token's probability when it was committed. retained_B: rows that repeat the completion of
    an earlier sweep. widest: positions of the largest block so far.
    """

    tokens_BL: Tensor
    attention_BL: Tensor
    start: int
    mask_id: int
    key_B: Tensor
    attention_block_BL: Tensor
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
            self.widest = max(self.widest, *(block[:end].count(n) for n in block[:end]))
            table.append(
                [pad_id] * pad + prompt.ids + [prompt.fixed.get(n, self.mask_id) for n in range(end)] + [pad_id] * behind
                + [0] * pad + [1] * (len(prompt.ids) + end) + [0] * behind
                + [-1] * pad + attention_block + [AFTER] * behind
                + [int(n < end and n not in prompt.fixed) for n in range(gen_length)]
                + block + [prompt.key, max(block[:end]) + 1]
            )  # fmt: skip
        length, device = self.tokens_BL.shape[1], self.tokens_BL.device
        row_R = torch.tensor([rows]).T.to(device)[:, 0]
        sizes = [length, length, length, gen_length, gen_length, 1, 1]
        tokens, attention, seen_from, free, block_RG, key, blocks = torch.tensor(table).to(device).split(sizes, 1)
        self.tokens_BL[row_R], self.attention_BL[row_R], self.free_BG[row_R] = tokens, attention.bool(), free.bool()
        self.attention_block_BL[row_R] = seen_from
        self.block_BG[row_R], self.key_B[row_R], self.blocks_B[row_R] = block_RG, key[:, 0], blocks[:, 0]
        for value in (self.block_B, self.round_B, self.index_B, self.first_B, self.commit_p_BG):
            value[row_R] = 0
        self.inside_BG[row_R] = free.bool() & (block_RG == 0)
        self.started_B[row_R] = (self.masked_BG & self.inside_BG)[row_R].sum(-1)
        self.memory.forget(rows)

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

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row the state of its ancestor; keys and prompts stay."""
        tokens_BL = self.tokens_BL.clone()
        tokens_BL[:, self.start :] = self.completion_BG[ancestor_B]
        for name, value in (self._rows() | {"tokens_BL": tokens_BL}).items():
            if name not in PROMPT_FIELDS:
                setattr(self, name, value[ancestor_B])
        self.tokens_BL = tokens_BL
        self.memory.values = {name: value[ancestor_B] for name, value in self.memory.values.items()}

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


def new_batch(
    rows: int,
    longest_prompt: int,
    gen_length: int,
    mask_id: int,
    pad_id: int,
    device: torch.device | str,
    topology: Topology = FULL,
) -> Batch:
    """A batch of unused rows: none of their positions is free, so nothing is decoded."""
    length = longest_prompt + gen_length
    zeros_B = torch.zeros(rows, dtype=torch.int64, device=device)
    nothing_BG = torch.zeros((rows, gen_length), dtype=torch.bool, device=device)
    return Batch(
        tokens_BL=torch.full((rows, length), pad_id, device=device),
        attention_BL=torch.zeros((rows, length), dtype=torch.bool, device=device),
        start=longest_prompt,
        mask_id=mask_id,
        key_B=zeros_B.clone(),
        attention_block_BL=torch.full((rows, length), -1, device=device),
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


def prompt_of(ids: list[int], seed: int, example: str) -> Prompt:
    """The prompt of an example; its random numbers follow from the seed and the example's id."""
    return Prompt(ids, row_key(seed, example))
