"""The state before a step, as parts see it, and the predictions and rankings that they read."""

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
    """The state of all rows before a step. No part may let one row depend on another.

    index_B: the step's number within its block, from 0; number_B: within the whole decoding, also for random numbers.
    prompt_BP: prompt tokens, padded on the left; prompt_attention_BP: False on padding. tokens_BG: completions. Of the
    positions that are being decoded, masked_BG are masked and committed_BG hold committed tokens (not fixed ones);
    all_masked_BG: masked positions of the whole completion; free_BG: positions that are not fixed. length_B: positions of the
    row's completion. started_B: the number
    masked at index 0. block_B: the row's block; block_BG: the block of each position. commit_p_BG: each token's
    probability when it was committed. end_id: the end token that fills completions. key_B: keys of random numbers. memory: tensors that parts keep. live_B: rows that
    are still decoding. retained_B: rows that repeat the completion of an earlier sweep. reward: a
    rewards.scorer.RowScorer, or None.
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
    length_B: Tensor
    started_B: Tensor
    block_B: Tensor
    block_BG: Tensor
    commit_p_BG: Tensor
    key_B: Tensor
    live_B: Tensor
    retained_B: Tensor
    mask_id: int
    end_id: int
    memory: Memory
    reward: Any = None

    def chance(self, counter: int) -> Tensor:
        """U(0, 1) for each position, (B, G); independent for each counter."""
        return everywhere(self.key_B, self.number_B * PURPOSES + ORDER, self.masked_BG.shape[1], counter)

    def score(
        self, completions_BG: Tensor, rows_B: Tensor, progress_B: Tensor | None = None, number_B: Tensor | None = None
    ) -> dict[int, float]:
        """Reward of the completions of the rows in rows_B: row → score. progress_B: the share of tokens committed; number_B:
        the step number; None: those of this step."""
        progress_B = 1 - share(self.all_masked_BG, self.free_BG) if progress_B is None else progress_B
        number_B = self.number_B if number_B is None else number_B
        columns = [x.double()[:, None] for x in (rows_B, progress_B, number_B)]
        table = torch.cat([completions_BG.double(), *columns], 1).tolist()  # one transfer from the device
        requests = {
            row: (list(map(int, ids)), progress, int(number))
            for row, (*ids, wanted, progress, number) in enumerate(table)
            if wanted
        }
        return self.reward(requests) if requests else {}

    def last_scores(self) -> Tensor:
        """The last score of each row, (B,) float64; NaN where there is none."""
        last = self.reward.last if self.reward else {}
        scores = [last[row][1] if row in last else math.nan for row in range(len(self.key_B))]
        return torch.tensor(scores, dtype=torch.float64).to(self.key_B.device)

    def final_scores(self, rows: list[int]) -> list[float]:
        """Reward of the finished completions of some rows."""
        completions = self.tokens_BG[torch.tensor(rows).to(self.tokens_BG.device)].tolist()
        return self.reward.final(dict(zip(rows, completions, strict=True)))


def share(some_BG: Tensor, free_BG: Tensor) -> Tensor:
    """The share of each row's free positions that are in some_BG, (B,)."""
    return (some_BG & free_BG).sum(1).double() / free_BG.sum(1).clamp(min=1)


def step_of(batch: Batch, reward: Any = None) -> Step:
    """The state of a batch, as parts see it."""
    masked_BG, inside_BG = batch.masked_BG, batch.inside_BG
    return Step(
        index_B=batch.index_B,
        number_B=batch.step_B,
        prompt_BP=batch.tokens_BL[:, : batch.start],
        prompt_attention_BP=batch.attention_BL[:, : batch.start],
        tokens_BG=batch.completion_BG,
        masked_BG=masked_BG & inside_BG,
        committed_BG=~masked_BG & inside_BG & batch.free_BG,
        all_masked_BG=masked_BG,
        free_BG=batch.free_BG,
        length_B=batch.length_B,
        started_B=batch.started_B,
        block_B=batch.block_B,
        block_BG=batch.block_BG,
        commit_p_BG=batch.commit_p_BG,
        key_B=batch.key_B,
        live_B=batch.live_B,
        retained_B=batch.retained_B,
        mask_id=batch.mask_id,
        end_id=batch.end_id,
        memory=batch.memory,
        reward=reward,
    )


@dataclass(frozen=True)
class Prediction:
    """The predictions at N positions of all rows that an order scores.

    row_N, position_N: where. offset_N: distance from the first position that is being decoded. token_N: proposed tokens;
    log_p_N: their log-probabilities. features_N: the result of Order.features. key_N, number_N: for random numbers.
    """

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
    """The ranking of a step's positions; scores and log-probabilities (B, G) are −inf where a position is not open.

    row_N, position_N: the N ranked positions; ranked_BG, the same as a mask. features_N: the result of Schedule.features.
    token_BG: proposed tokens. log_p_BG: their log-probabilities, at the lowest value where an end token is suppressed;
    raw_BG: without suppression. score_BG: the order's scores; tied_BG: before ties were broken.
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
        """Values (N, …) of the ranked positions as (B, G, …)."""
        return spread(value_N, self.row_N, self.position_N, self.open_BG, elsewhere)


@dataclass(frozen=True)
class Branches:
    """Further canvases of the rows, K for each, to be computed before the step commits tokens.

    completion_BKG: their completions. wanted_BKG: positions whose predictions are needed; a canvas without any is not
    computed.
    """

    completion_BKG: Tensor
    wanted_BKG: Tensor


@dataclass(frozen=True)
class Ahead(Branches):
    """Further canvases and the predictions at their wanted positions; 0 elsewhere. wanted_BKG: those that were computed.

    token_BKG: the tokens that the next step would propose there; log_p_BKG: their log-probabilities, untempered.
    features_BKGF: the results of Schedule.features. current_log_p_BKG: the log-probabilities, untempered, of the tokens that
    the rows have there now; None if the schedule does not read them.
    """

    token_BKG: Tensor
    log_p_BKG: Tensor
    features_BKGF: Tensor
    current_log_p_BKG: Tensor | None


def spread(value_N: Tensor, row_N: Tensor, position_N: Tensor, like_BG: Tensor, elsewhere: float) -> Tensor:
    """Values (N, …) at N positions as (B, G, …)."""
    shape = (*like_BG.shape, *value_N.shape[1:])
    out = torch.full(shape, elsewhere, dtype=value_N.dtype, device=value_N.device)
    out[row_N, position_N] = value_N
    return out
