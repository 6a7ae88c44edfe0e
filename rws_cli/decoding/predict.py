"""Forward passes over the rows of a batch: logits at the queried positions, and their cost."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch
from rws_cli.decoding.prediction import log_softmax
from rws_cli.decoding.protocols import Cache, Denoiser
from rws_cli.decoding.record import Cost, charge


@dataclass(frozen=True)
class Query:
    """The logits that a step needs.

    rows: rows with open positions; active_B, the same as a mask. wanted_BG: positions whose logits are computed, all in
    these rows; wanted, their number in each row of the batch. ends: of each row the column after the last one that its pass
    computes. ranked_BG: those of them that the schedule ranks; read, their number in all rows. weighs: whether the search
    weighs particles. numbers: the step number of each row. sources: where rows are copies, the rows of the cache that they
    come from, and how many of them, the first ones, are no drafts.
    """

    rows: list[int]
    active_B: Tensor
    wanted_BG: Tensor
    ranked_BG: Tensor
    wanted: list[int]
    ends: list[int]
    read: int
    weighs: bool
    numbers: list[int]
    sources: tuple[list[int], int] | None = None


@dataclass
class Predictor:
    """most_rows: rows of one forward pass. cache: computes the logits from stored keys and values."""

    denoiser: Denoiser
    sampler: Any
    most_rows: int
    cache: Cache | None = None

    def __call__(
        self, batch: Batch, query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (N, V) at the wanted positions; and, for schedules with a shadow, the probability of each token of the block
        as predicted without seeing the token itself, (B, G), 1 elsewhere. prompt_lengths: of all rows, in tokens."""
        rows, wanted_BG = query.rows, query.wanted_BG
        row_R = query.active_B.to(torch.int8).argsort(descending=True, stable=True)[: len(rows)]
        passes = 2 if self.sampler.cfg_scale > 0 else 1
        shadow_BG = torch.ones_like(batch.commit_p_BG) if self.sampler.schedule.shadow else None
        chunks = []
        for start in range(0, len(rows), self.most_rows):
            some = rows[start : start + self.most_rows]
            index: Any = slice(None) if len(some) == len(wanted_BG) else row_R[start : start + self.most_rows]
            with charge(costs, some, "mdm_seconds"):
                if self.cache:
                    these_R, wanted = row_R[start : start + self.most_rows], [query.wanted[row] for row in some]
                    logits_NV, tokens = self.cache.logits(batch, these_R, wanted_BG[index], wanted, query.sources)
                else:
                    left = batch.start - max(prompt_lengths[row] for row in some)  # columns that all of them pad
                    full, last = batch.topology.block_size is None, max(query.ends[row] for row in some)
                    columns = slice(left, last if shadow_BG is None else None)
                    tokens_RL, seen_RL = batch.tokens_BL[index, columns], batch.attention_BL[index, columns]
                    wanted_RL = torch.zeros_like(batch.attention_BL[index, left:])
                    wanted_RL[:, batch.start - left :] = wanted_BG[index]
                    if full:  # else a column after the last one stands for the token that follows
                        wanted_RL = wanted_RL[:, : tokens_RL.shape[1]]
                    tokens = [prompt_lengths[row] + query.ends[row] - batch.start for row in some]
                    if shadow_BG is None:
                        count = sum(query.wanted[row] for row in some)
                        blocks = {} if full else {"block_BL": batch.attention_block_BL[index, columns]}
                        logits_NV = self.logits(tokens_RL, seen_RL, wanted_RL, batch.start - left, count, **blocks)
                    else:
                        inside_RG = batch.inside_BG[index]
                        logits_NV, shadow_BG[index] = self.shadowed(
                            tokens_RL, seen_RL, wanted_RL, inside_RG, batch.widest
                        )
                        tokens = [count + self.sampler.block_length for count in tokens]
            chunks.append(logits_NV)
            for row, count in zip(some, tokens, strict=True):
                costs[row].mdm_passes += passes
                costs[row].mdm_rows += passes
                costs[row].mdm_tokens += passes * count
        return torch.cat(chunks) if len(chunks) > 1 else chunks[0], shadow_BG

    def remember(self, guided: Any, scale_N: Tensor | None) -> None:
        """Called with the guided logits and scales of each step."""

    def forget(self, rows: list[int]) -> None:
        """Called when rows begin another prompt."""

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Called when each row takes the state of its ancestor."""

    def logits(
        self, tokens_RL: Tensor, seen_RL: Tensor, wanted_RL: Tensor, start: int, count: int, **blocks: Tensor
    ) -> Tensor:
        """As guided_logits, in the model's dtype where confidences are."""
        dtype = self.denoiser.dtype if self.sampler.confidence == "model_dtype" else None
        scale = self.sampler.cfg_scale
        return guided_logits(self.denoiser, scale, tokens_RL, seen_RL, wanted_RL, start, count, dtype, **blocks)

    def shadowed(
        self, tokens_RL: Tensor, seen_RL: Tensor, wanted_RL: Tensor, inside_RG: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Logits, and the shadow's probability of each committed token inside (1 elsewhere). count: the most positions that
        are inside in any row."""
        first = tokens_RL.shape[1] - inside_RG.shape[1]
        place_RK = inside_RG.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :count]
        is_inside_RK = inside_RG.gather(1, place_RK)
        logits_NV, shadow_RKV = self.denoiser.shadowed(tokens_RL, seen_RL, wanted_RL, place_RK + first, is_inside_RK)
        token_RK = tokens_RL[:, first:].gather(1, place_RK)
        log_p_RK = (
            log_softmax(shadow_RKV.double().flatten(0, 1)).gather(-1, token_RK.reshape(-1, 1)).view(token_RK.shape)
        )
        doubtful_RK = is_inside_RK & (token_RK != self.denoiser.mask_id)
        shadow_RG = torch.ones(inside_RG.shape, dtype=torch.float64, device=inside_RG.device)
        return logits_NV, shadow_RG.scatter(1, place_RK, torch.where(doubtful_RK, log_p_RK.exp(), 1.0))


def guided_logits(
    denoiser: Denoiser,
    cfg_scale: float,
    tokens_RL: Tensor,
    seen_RL: Tensor,
    wanted_RL: Tensor,
    start: int,
    count: int,
    dtype: torch.dtype | None = None,
    **blocks: Tensor,
) -> Tensor:
    """Logits (N, V), float32, with classifier-free guidance if cfg_scale, w, is not 0: z_u + (w + 1)(z_c − z_u), where z_u is
    computed with the prompt masked. start: the column at which completions begin; dtype: of the difference; count, blocks: as
    in Denoiser.logits."""
    logits_NV = denoiser.logits(tokens_RL, seen_RL, wanted_RL, count, **blocks)
    if cfg_scale == 0:
        return logits_NV
    unconditional_RL = tokens_RL.clone()
    unconditional_RL[:, :start].masked_fill_(seen_RL[:, :start], denoiser.mask_id)
    without_NV = denoiser.logits(unconditional_RL, seen_RL, wanted_RL, count, **blocks)
    without_NV, with_NV = (values.to(dtype or logits_NV.dtype) for values in (without_NV, logits_NV))
    return (without_NV + (cfg_scale + 1) * (with_NV - without_NV)).to(logits_NV.dtype)
