"""Ranks the open positions of a step: proposed tokens, their log-probabilities, the order's scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch
from rws_cli.decoding.noise import mix, uniform
from rws_cli.decoding.prediction import (
    GUMBEL,
    ORDER,
    PLACE,
    PURPOSES,
    REDRAW,
    chunk_size,
    lead,
    likeliest,
    log_p_of,
    log_softmax,
    propose,
    rounded_log_p,
    temper,
    ulp,
)
from rws_cli.decoding.protocols import Denoiser
from rws_cli.decoding.step import Prediction, Ranking, Step, spread
from rws_cli.models.base import positions

LOWEST = torch.finfo(torch.float64).min
"""The log-probability of positions that are put last."""


@dataclass(frozen=True)
class PositionLogits:
    """The logits (N, V) of N positions of all rows, which are given by row_N and position_N.

    order_logits_NV: the logits that orders read, if others. top_N: the likeliest tokens, where nothing is drawn.
    """

    row_N: Tensor
    position_N: Tensor
    logits_NV: Tensor
    order_logits_NV: Tensor | None
    top_N: Tensor | None

    def some(self, index_n: Any) -> PositionLogits:
        tensors = (self.row_N, self.position_N, self.logits_NV, self.order_logits_NV, self.top_N)
        return PositionLogits(*(None if x is None else x[index_n] for x in tensors))  # type: ignore[arg-type]


def greedy(sampler: Any) -> bool:
    """Whether the proposed token is always the likeliest one; no scale changes that."""
    return sampler.temperature == 0 and sampler.top_p >= 1.0


@dataclass(frozen=True)
class Ranker:
    """Ranks positions, their logits multiplied by scales (N,).

    denoiser: its dtype decides rounding. end_E: end tokens. It works on chunks of positions, so that float64 copies of a large vocabulary
    stay small, and computes the probabilities of all tokens only where a part needs them.
    """

    sampler: Any
    denoiser: Denoiser
    end_E: Tensor

    def position_logits(self, batch: Batch, wanted_BG: Tensor, logits_NV: Tensor) -> PositionLogits:
        """The logits at the wanted positions, without the end tokens that may not stand there."""
        row_N, position_N = positions(wanted_BG, len(logits_NV))
        if self.sampler.eos == "logits_eos_inf":
            logits_NV[:, self.end_E[:1]] = -torch.inf
        if batch.has_fixed:
            bans_N1 = batch.before_fixed()[row_N, position_N][:, None]
            logits_NV[:, self.end_E] = logits_NV[:, self.end_E].masked_fill(bans_N1, -torch.inf)
        return PositionLogits(row_N, position_N, logits_NV, None, greedy_tokens(logits_NV, self.sampler, batch.mask_id))

    def __call__(self, predicted: PositionLogits, scale_N: Tensor | None, open_BG: Tensor, step: Step) -> Ranking:
        s, row_N, position_N = self.sampler, predicted.row_N, predicted.position_N
        token_N, raw_N, unscaled_N, log_p_N, order_features_N, features_N = self.predict_all(predicted, scale_N, step)
        log_p_N = log_p_N.clamp(min=LOWEST)  # −inf means that a position is not open
        key_N, number_N = step.key_B[row_N], step.number_B[row_N]
        first_B = (step.masked_BG | step.committed_BG).to(torch.int8).argmax(-1)
        prediction = Prediction(
            row_N, position_N, position_N - first_B[row_N], token_N, log_p_N, order_features_N, key_N, number_N
        )
        score_N = s.order.score(prediction, step)
        if s.order_temperature > 0:  # Dream's alg_temp: the highest are a draw from softmax(score / temperature)
            u_N = uniform(key_N, number_N * PURPOSES + ORDER, position_N, PLACE + 1)[:, PLACE]
            score_N = s.order.as_probability(score_N) / s.order_temperature - (-u_N.log()).log()
        if s.eos == "suppress" or (s.eos == "confidence_eos_eot_inf" and s.order.reads_tokens):
            is_end_N = torch.isin(token_N, self.end_E)
            score_N = score_N.masked_fill(is_end_N, torch.finfo(score_N.dtype).min)
            log_p_N = log_p_N.masked_fill(is_end_N, LOWEST)

        def opened(value_N: Tensor) -> Tensor:
            return spread(value_N, row_N, position_N, open_BG, -torch.inf).masked_fill(~open_BG, -torch.inf)

        tied_BG = opened(score_N)
        return Ranking(
            open_BG=open_BG,
            ranked_BG=spread(torch.ones_like(row_N, dtype=torch.bool), row_N, position_N, open_BG, False),
            row_N=row_N,
            position_N=position_N,
            features_N=features_N,
            token_BG=spread(token_N, row_N, position_N, open_BG, 0),
            log_p_BG=opened(log_p_N),
            raw_BG=spread(raw_N, row_N, position_N, open_BG, 0.0),
            score_BG=break_ties(tied_BG, opened(raw_N)) if s.ties == "probability" else tied_BG,
            tied_BG=tied_BG,
            unscaled_BG=spread(unscaled_N, row_N, position_N, open_BG, 0.0) if s.schedule.reads_unscaled else None,
            redraw=lambda number: self.redraw(predicted, scale_N, open_BG, step, number),
        )

    def redraw(
        self, predicted: PositionLogits, scale_N: Tensor | None, open_BG: Tensor, step: Step, number: int
    ) -> tuple[Tensor, Tensor]:
        """The `number`-th further draw, from 1, of a token for each ranked position, and its untempered log-probability;
        (B, G) each."""
        other = replace(step, key_B=mix(step.key_B + number * REDRAW))
        token_N, raw_N, *_ = self.predict_all(predicted, scale_N, other)
        at_N = predicted.row_N, predicted.position_N
        return spread(token_N, *at_N, open_BG, 0), spread(raw_N, *at_N, open_BG, 0.0)

    def predict_all(self, predicted: PositionLogits, scale_N: Tensor | None, step: Step) -> Iterator[Tensor]:
        """What `predict` gives, for all positions: by chunks of them."""
        size, chunks = chunk_size(predicted.logits_NV), []
        for start in range(0, len(predicted.logits_NV), size):
            n = slice(start, start + size)
            chunks.append(self.predict(predicted.some(n), None if scale_N is None else scale_N[n], step))
        return (torch.cat(values) for values in zip(*chunks, strict=True))

    def predict(self, predicted: PositionLogits, scale_n: Tensor | None, step: Step) -> tuple[Tensor, ...]:
        """For n positions: the proposed tokens, their untempered log-probabilities, the same without scales if the schedule reads
        those, the log-probabilities that orders read, and the features that order and schedule compute from the probabilities
        of all tokens."""
        s, logits_nV, top_n = self.sampler, predicted.logits_NV, predicted.top_N
        if scale_n is not None and s.guidance.target != "all":
            top_n = None  # scaling one logit can change the argmax
        needs_all_log_probs = (
            s.order.needs_all_log_probs or s.schedule.needs_all_log_probs or predicted.order_logits_NV is not None
        )
        if top_n is not None and not needs_all_log_probs and s.confidence != "model_dtype":
            raw_n = log_p_n = log_p_of(logits_nV, top_n, scale_n)
            if s.eos == "confidence_eos_eot_inf":
                log_p_n = log_p_of(self.without_ends(logits_nV), top_n, scale_n)
            nothing_n0 = raw_n[:, None][:, :0]
            return top_n, raw_n, self.unscaled(raw_n, logits_nV, top_n, scale_n), log_p_n, nothing_n0, nothing_n0
        z_nV = logits_nV.double()
        if scale_n is not None:
            z_nV = s.guidance.apply(z_nV, scale_n)
        tempered_nV = temper(z_nV, s.temperature, s.top_p)
        untempered = s.temperature in (0.0, 1.0) and s.top_p >= 1.0
        raw_nV = tempered_nV if untempered else log_softmax(z_nV)
        if top_n is None:
            key_n, number_n = step.key_B[predicted.row_N], step.number_B[predicted.row_N]
            top_n = propose(tempered_nV, s.temperature, step.mask_id, key_n, number_n, predicted.position_N, GUMBEL)
        log_p_nV = self.read_by_orders(predicted, z_nV, raw_nV, tempered_nV)
        raw_n, log_p_n = (values.gather(-1, top_n[:, None])[:, 0] for values in (raw_nV, log_p_nV))
        unscaled_n = self.unscaled(raw_n, logits_nV, top_n, scale_n)
        return top_n, raw_n, unscaled_n, log_p_n, s.order.features(log_p_nV), s.schedule.features(raw_nV)

    def unscaled(self, raw_n: Tensor, logits_nV: Tensor, top_n: Tensor, scale_n: Tensor | None) -> Tensor:
        """The log-probabilities of proposed tokens before logits are scaled, if the schedule reads them."""
        if scale_n is None or not self.sampler.schedule.reads_unscaled:
            return raw_n
        return log_p_of(logits_nV, top_n)

    def read_by_orders(self, predicted: PositionLogits, z_nV: Tensor, raw_nV: Tensor, tempered_nV: Tensor) -> Tensor:
        """The log-probabilities (n, V) that orders read."""
        s = self.sampler
        without_ends = s.eos == "confidence_eos_eot_inf"
        if predicted.order_logits_NV is not None:
            z_nV = predicted.order_logits_NV.double()
            return temper(self.without_ends(z_nV) if without_ends else z_nV, s.temperature, 1.0)
        if s.confidence == "model_dtype":
            return rounded_log_p(self.without_ends(z_nV) if without_ends else z_nV, self.denoiser.dtype)
        if without_ends:
            z_nV = self.without_ends(z_nV)
            return log_softmax(z_nV) if s.confidence == "raw" else temper(z_nV, s.temperature, s.top_p)
        return raw_nV if s.confidence == "raw" else tempered_nV

    def without_ends(self, z_nV: Tensor) -> Tensor:
        return z_nV.index_fill(1, self.end_E, -torch.inf)

    def reversals(
        self, predicted: PositionLogits, ranking: Ranking, chosen_BG: Tensor, step: Step
    ) -> dict[str, Tensor | None]:
        """Compare the step with one at scale 1, edits left out: pairs of open positions, reversals, changed selection."""
        plain = self(predicted, None, ranking.open_BG, step)
        other_BG = self.sampler.schedule.choose(plain, step) & plain.ranked_BG & step.free_BG
        scores = (ranked.score_BG.masked_fill(~step.masked_BG, -torch.inf) for ranked in (plain, ranking))
        pairs_B, reversals_B = count_reversals(*scores)
        changed_B = ((other_BG != chosen_BG) & step.masked_BG).any(-1)
        return {"pairs": pairs_B, "reversals": reversals_B, "changed_selection": changed_B}

    def near_ties(self, predicted: PositionLogits, ranking: Ranking, chosen_BG: Tensor, step: Step) -> Tensor:
        """The chosen tokens (B, G) that rounding in the model's dtype could have decided otherwise: the token itself, where
        nothing is drawn, or the selection of its step, where scores come from logits."""
        s, near_BG, logits_NV = self.sampler, torch.zeros_like(chosen_BG), predicted.logits_NV
        selected_BG = s.schedule.selected(ranking, chosen_BG, step)
        chosen_C = (chosen_BG | selected_BG)[predicted.row_N, predicted.position_N].nonzero()[:, 0]
        index_C = (predicted.row_N[chosen_C], predicted.position_N[chosen_C])
        token_C = ranking.token_BG[index_C]
        unit_C = ulp(logits_NV[chosen_C, token_C], self.denoiser.dtype)
        if greedy(s):
            chunks = zip(*(x_C.split(chunk_size(logits_NV)) for x_C in (chosen_C, token_C)), strict=True)
            lead_C = torch.cat([lead(logits_NV[chosen_c], token_c, step.mask_id) for chosen_c, token_c in chunks])
            near_BG[index_C] = lead_C.abs() < unit_C
        if s.order.reads_tokens and s.order_temperature == 0:
            unit_BG = spread(unit_C, *index_C, near_BG, 0.0)
            keys = [ranking.tied_BG, *([ranking.raw_BG] if s.ties == "probability" else [])]
            near_BG |= selected_BG & selection_near_tie(keys, ranking.score_BG, selected_BG, unit_BG)[:, None]
        return near_BG


def selection_near_tie(keys: list[Tensor], rank_BG: Tensor, chosen_BG: Tensor, unit_BG: Tensor) -> Tensor:
    """Rows (B,) whose last chosen and first rejected position could swap by rounding: their keys differ by less than the
    larger key times the unit in the last place of the logit at the last chosen position.

    keys: what ranks are made of; each decides where those before it are equal. rank_BG: −inf where a position is not open.
    """
    last_B = rank_BG.masked_fill(~chosen_BG, torch.inf).argmin(-1, keepdim=True)
    refused_BG = rank_BG.masked_fill(chosen_BG, -torch.inf)
    first_B = refused_BG.argmax(-1, keepdim=True)
    unit_B = unit_BG.gather(-1, last_B)[:, 0]
    near_B, equal_B = torch.zeros_like(chosen_BG[:, 0]), chosen_BG.any(-1) & (refused_BG > -torch.inf).any(-1)
    for key_BG in keys:
        last_key_B, first_key_B = (key_BG.gather(-1, place_B)[:, 0] for place_B in (last_B, first_B))
        size_B = torch.maximum(last_key_B.abs(), first_key_B.abs())
        equal_B &= size_B < 1e300  # not where an end token was put last
        near_B |= equal_B & ((last_key_B - first_key_B).abs() < size_B * unit_B)
        equal_B &= last_key_B == first_key_B
    return near_B | equal_B


def break_ties(score_BG: Tensor, log_p_BG: Tensor) -> Tensor:
    """Ranks within each row, in place of scores: equal scores are ordered by log-probability, and stay equal if that is
    equal too. Positions that are not open keep −inf."""
    by_p_BG = log_p_BG.argsort(dim=-1, stable=True)
    by_both_BG = by_p_BG.gather(-1, score_BG.gather(-1, by_p_BG).argsort(dim=-1, stable=True))
    score, log_p = score_BG.gather(-1, by_both_BG), log_p_BG.gather(-1, by_both_BG)
    rises_BG = (score[:, 1:] > score[:, :-1]) | (log_p[:, 1:] > log_p[:, :-1])
    rank_BG = torch.cat([torch.zeros_like(rises_BG[:, :1]), rises_BG], -1).cumsum(-1).double()
    ranks_BG = torch.empty_like(rank_BG).scatter_(-1, by_both_BG, rank_BG)
    return ranks_BG.masked_fill(score_BG == -torch.inf, -torch.inf)


def count_reversals(before_BG: Tensor, after_BG: Tensor) -> tuple[Tensor, Tensor]:
    """For each row (B,) the number of pairs of open positions, and of those whose order by score is strictly reversed.
    Positions that are not open hold −inf."""
    open_BG = before_BG > -torch.inf
    count_B = open_BG.sum(-1)
    turned = []
    for before_G, after_G, open_G in zip(before_BG, after_BG, open_BG, strict=True):
        before, after = before_G.masked_fill(~open_G, 0.0), after_G.masked_fill(~open_G, 0.0)
        signs_GG = torch.sign(before[:, None] - before) * torch.sign(after[:, None] - after)
        turned.append(((signs_GG < 0) & open_G[:, None] & open_G).sum() // 2)
    return count_B * (count_B - 1) // 2, torch.stack(turned)


def greedy_tokens(logits_NV: Tensor, sampler: Any, mask_id: int) -> Tensor | None:
    """The likeliest tokens (N,) where they are the proposed ones, else None."""
    return likeliest(logits_NV, mask_id) if greedy(sampler) else None
