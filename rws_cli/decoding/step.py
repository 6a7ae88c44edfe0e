"""What a step knows, for the parts that it asks."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch, Memory
from rws_cli.decoding.noise import everywhere
from rws_cli.decoding.prediction import ORDER, PURPOSES


@dataclass(frozen=True)
class Step:
    """Where every row stands before a step. No rule reads another row's.

    index_B: the step's number within its block, from 0; number_B: within the whole decoding, for random numbers.
    prompt_BP: the prompts' tokens, where prompt_attention_BP is True; before them is padding. tokens_BG: the answers; masked_BG:
    masked positions that are being decoded; committed_BG: the others of them but given ones; all_masked_BG: masked
    positions of the whole answer; free_BG: all that are not given. started_B: how many were masked at index 0. block_B:
    the block that a row is in; block_BG: that of each position. p_BG: each token's probability when it was committed.
    key_B: of random numbers. memory: what parts keep. live_B: rows that are not finished. retained_B: rows that
    follow the answer of an earlier sweep. reward: a rewards/scorer.RowScorer, or None.
    """

    index_B: Tensor
    number_B: Tensor
    prompt_BP: Tensor
    prompt_attention_BP: Tensor
    tokens_BG: Tensor
    masked_BG: Tensor
    committed_BG: Tensor
    all_masked_BG: Tensor
    free_BG: Tensor
    started_B: Tensor
    block_B: Tensor
    block_BG: Tensor
    commit_p_BG: Tensor
    key_B: Tensor
    live_B: Tensor
    retained_B: Tensor
    mask_id: int
    memory: Memory
    reward: Any = None

    def chance(self, counter: int) -> Tensor:
        """U(0, 1) for each position (B, G); another number for each counter."""
        return everywhere(self.key_B, self.number_B * PURPOSES + ORDER, self.masked_BG.shape[1], counter)

    def score(
        self, completions_BG: Tensor, rows_B: Tensor, progress_B: Tensor | None = None, number_B: Tensor | None = None
    ) -> dict[int, float]:
        """The reward of the answers of some rows (a mask), row → score. progress_B: the share that is committed; number_B: of
        the step; None: this step's."""
        progress_B = 1 - share(self.all_masked_BG, self.free_BG) if progress_B is None else progress_B
        number_B = self.number_B if number_B is None else number_B
        columns = [x.double()[:, None] for x in (rows_B, progress_B, number_B)]
        table = torch.cat([completions_BG.double(), *columns], 1).tolist()  # one wait for the device
        asked = {
            row: (list(map(int, ids)), progress, int(number))
            for row, (*ids, wanted, progress, number) in enumerate(table)
            if wanted
        }
        return self.reward(asked) if asked else {}

    def last_scores(self) -> Tensor:
        """What the reward gave each row when it was last asked, (B,) float64; NaN where it was not."""
        last = self.reward.last if self.reward else {}
        scores = [last[row][1] if row in last else math.nan for row in range(len(self.key_B))]
        return torch.tensor(scores, dtype=torch.float64).to(self.key_B.device)

    def final_scores(self, rows: list[int]) -> list[float]:
        """The reward of finished answers."""
        completions = self.tokens_BG[torch.tensor(rows).to(self.tokens_BG.device)].tolist()
        return self.reward.final(dict(zip(rows, completions, strict=True)))


def share(some_BG: Tensor, free_BG: Tensor) -> Tensor:
    """The share of a row's free positions that are among some, (B,)."""
    return (some_BG & free_BG).sum(1).double() / free_BG.sum(1).clamp(min=1)


def step_of(batch: Batch, reward: Any = None) -> Step:
    """Where the rows of a batch stand."""
    masked_BG, inside_BG = batch.masked_BG, batch.inside_BG
    return Step(
        index_B=batch.index_B,
        number_B=batch.step_B,
        prompt_BP=batch.tokens_BL[:, : batch.start],
        prompt_attention_BP=batch.attention_BL[:, : batch.start],
        tokens_BG=batch.response_BG,
        masked_BG=masked_BG & inside_BG,
        committed_BG=~masked_BG & inside_BG & batch.free_BG,
        all_masked_BG=masked_BG,
        free_BG=batch.free_BG,
        started_B=batch.started_B,
        block_B=batch.block_B,
        block_BG=batch.block_BG,
        commit_p_BG=batch.commit_p_BG,
        key_B=batch.key_B,
        live_B=batch.live_B,
        retained_B=batch.retained_B,
        mask_id=batch.mask_id,
        memory=batch.memory,
        reward=reward,
    )


@dataclass(frozen=True)
class Prediction:
    """What the model says of N positions of all rows, as an order reads it: row_N and position_N say where they are,
    offset_N how far from the first position that is being decoded, token_N the tokens proposed, log_p_N their
    log-probabilities, features_N what Order.read made of those of all tokens, key_N and number_N are for random numbers."""

    row_N: Tensor
    position_N: Tensor
    offset_N: Tensor
    token_N: Tensor
    log_p_N: Tensor
    features_N: Tensor
    key_N: Tensor
    number_N: Tensor


@dataclass(frozen=True)
class Ranking:
    """How a step ranks its open positions; (B, G) tensors hold −inf where a position is closed.

    row_N, position_N: the positions that were asked about, ranked_BG as a mask; features_N: what Schedule.read made of each.
    token_BG: the tokens proposed there. log_p_BG: their log-probabilities, lowered as far as can be where an end token is
    suppressed; raw_BG: before that. score_BG: the order's; tied_BG: before ties were broken.
    """

    open_BG: Tensor
    ranked_BG: Tensor
    row_N: Tensor
    position_N: Tensor
    features_N: Tensor
    token_BG: Tensor
    log_p_BG: Tensor
    raw_BG: Tensor
    score_BG: Tensor
    tied_BG: Tensor

    def spread(self, value_N: Tensor, elsewhere: float) -> Tensor:
        """A value for each position that was asked about as (B, G, …)."""
        return spread(value_N, self.row_N, self.position_N, self.open_BG, elsewhere)


def spread(value_N: Tensor, row_N: Tensor, position_N: Tensor, like_BG: Tensor, elsewhere: float) -> Tensor:
    """A value for each of N positions as (B, G, …)."""
    shape = (*like_BG.shape, *value_N.shape[1:])
    out = torch.full(shape, elsewhere, dtype=value_N.dtype, device=value_N.device)
    out[row_N, position_N] = value_N
    return out
