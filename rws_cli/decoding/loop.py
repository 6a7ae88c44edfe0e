"""The diffusion loop: predict, guide, order, choose, commit; until no mask remains.

This file alone counts cost, draws random numbers' keys and records the trace; the parts that it calls are functions
over tensors that know of none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.config.schema import R3Review, ReplayGuidance, RewardGuidance, Sampler, TemperatureGuidance
from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import apply, count_reversals, fill, normalize, scale
from rws_cli.decoding.orders import PC, READ_NO_TOKEN, break_ties, draw_order, order_scores, reads_all_tokens
from rws_cli.decoding.prediction import (
    GUMBEL,
    Prediction,
    lead,
    likeliest,
    log_p_of,
    log_softmax,
    propose,
    rounded_log_p,
    temper,
    ulp,
)
from rws_cli.decoding.protocols import Cache, Denoiser, Mover, Particles, Scorer
from rws_cli.decoding.record import LAST, Cost, RowTrace, charge
from rws_cli.decoding.replay import Scales, scale_at
from rws_cli.decoding.review import review
from rws_cli.decoding.schedules import Moment, Ranked, hangs, schedule_of
from rws_cli.errors import RunError

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
"""Size of the float64 probabilities, or of twice the logits, that are worked on at a time."""

LOWEST = torch.finfo(torch.float64).min
"""The log-probability of what comes last."""

OnStep = Callable[[int, list[RowTrace]], None]
"""Hears of each step: how many tokens it committed, and the traces of all rows as far as it."""


def decode(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    scorer: Scorer | None = None,
    costs: list[Cost] | None = None,
    on_step: OnStep = lambda committed, traces: None,
    replayed: Sequence[Scales] = (),
    mover: Mover | None = None,
    pc: PC | None = None,
    particles: Particles | None = None,
    most_rows: int | None = None,
    cache: Cache | None = None,
) -> list[RowTrace]:
    """Fill the canvas in place, block by block (LLaDA, arXiv 2502.09992, semi-autoregressive for several blocks).

    scorer: for whatever reads a reward; replayed: scales for each row, for replay guidance; mover: for gradient guidance;
    pc: for the order pc; particles: for a search, by which rows are copied over each other. most_rows: rows in one
    forward pass (all of them, if not given). cache: answers in place of the denoiser, approximately.
    Rows are independent but for particles of one group: each row's result is the same alone or in any batch. Returns a
    trace for each row, adds to `costs`, and calls `on_step` with the number of tokens committed and all rows' traces so
    far. Raises RunError if logits are not finite.
    """
    costs = [Cost() for _ in range(len(canvas.tokens_BL))] if costs is None else costs
    guide = _Guide(sampler, scorer, replayed)
    decoding = Decoding(denoiser, canvas, sampler, guide, costs, on_step, mover, pc, particles, most_rows, cache)
    with torch.inference_mode():
        return decoding.run(scorer)


@dataclass
class _Ranking:
    """How a step ranks the open positions: proposed tokens, their untempered log-probabilities, what a schedule reads of
    them, and the order's scores before ties are broken (−inf at closed positions)."""

    token_N: Tensor
    log_p_N: Tensor
    ranked: Ranked
    score_BG: Tensor


class Decoding:
    """A batch being decoded. Tensors cover all its rows; psi_BG is the probability of each token when it was committed,
    started_B how many positions were masked when the block began, and `memory` what the schedule keeps."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        sampler: Sampler,
        guide: _Guide,
        costs: list[Cost],
        on_step: OnStep,
        mover: Mover | None,
        pc: PC | None,
        particles: Particles | None,
        most_rows: int | None,
        cache: Cache | None,
    ) -> None:
        self.denoiser, self.canvas, self.sampler, self.guide, self.costs = denoiser, canvas, sampler, guide, costs
        self.on_step, self.mover, self.pc, self.particles = on_step, mover, pc, particles
        self.most_rows, self.cache = most_rows or len(canvas.tokens_BL), cache
        self.schedule = schedule_of(sampler)
        self.traces = [RowTrace() for _ in range(len(canvas.tokens_BL))]
        self.psi_BG = torch.zeros(canvas.masked_BG.shape, dtype=torch.float64, device=canvas.tokens_BL.device)
        self.started_B = torch.zeros(len(canvas.tokens_BL), dtype=torch.int64, device=canvas.tokens_BL.device)
        self.memory: dict[str, Tensor] = {}

    def run(self, scorer: Scorer | None) -> list[RowTrace]:
        settings, length = self.sampler.review, self.sampler.block_length
        rounds = settings.rounds if isinstance(settings, R3Review) else 0
        place_G = torch.arange(self.sampler.gen_length, device=self.canvas.tokens_BL.device)
        for block in range(self.sampler.blocks):
            first = block * (1 + rounds) * self.schedule.steps
            self.fill(place_G // length == block, block * length, first)
            rows = list(range(len(self.traces)))
            for number in range(1, rounds + 1):
                assert isinstance(settings, R3Review)
                assert scorer
                step = first + number * self.schedule.steps
                with charge(self.costs, rows, "seconds"):
                    again_BG = review(settings, self.canvas, scorer, self.psi_BG, rows, block, length, step)
                rows = again_BG.any(1).nonzero()[:, 0].tolist()
                if not rows:
                    break
                self.mask(again_BG, step)
                start = max(0, block + 1 - settings.window) * length
                self.fill((place_G >= start) & (place_G < (block + 1) * length), start, step)
            if self.particles:
                self.copy_rows(self.particles.block_ended(first))
        return self.traces

    def fill(self, inside_G: Tensor, start: int, first: int) -> None:
        """Decode until nothing inside is masked; `start` is the first position inside, `first` the number of its first
        step."""
        self.started_B = (self.canvas.masked_BG & inside_G).sum(-1)
        if self.cache:
            self.cache.begin()
        for index in range(self.schedule.steps):
            m = self.moment(inside_G, index, first + index)
            if (again_BG := self.schedule.before(m)) is not None:
                self.mask(again_BG, m.step)
                m = self.moment(inside_G, index, first + index)
            open_BG = self.schedule.candidates(m)
            rows = open_BG.any(1).nonzero()[:, 0].tolist()
            chosen_BG, shadow_BG = torch.zeros_like(open_BG), None
            if rows:
                with charge(self.costs, rows, "seconds"):
                    chosen_BG, shadow_BG, look = self.step(m, open_BG, rows, inside_G, start)
                look()  # to look is not to decode: nobody is charged for it
                self.on_step(int(chosen_BG.sum()), self.traces)
            if (again_BG := self.schedule.after(chosen_BG, shadow_BG, m)) is not None:
                self.mask(again_BG, m.step + 1)

    def moment(self, inside_G: Tensor, index: int, step: int) -> Moment:
        masked_BG = self.canvas.masked_BG
        return Moment(
            index, step, masked_BG & inside_G, ~masked_BG & inside_G, self.started_B, self.psi_BG, self.canvas.key_B,
            self.memory, masked_BG,
        )  # fmt: skip

    def mask(self, again_BG: Tensor, step: int) -> None:
        """Mask some positions again, as a step will find them."""
        for row, position in again_BG.nonzero().tolist():
            self.traces[row].mask(position, step)
        self.canvas.response_BG[again_BG] = self.canvas.mask_id

    def step(
        self, m: Moment, open_BG: Tensor, rows: list[int], inside_G: Tensor, start: int
    ) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
        """One step on the rows that have open positions: what it committed, what a shadow says of committed tokens,
        and a function that adds to the trace how a scale of 1 would have ranked and chosen."""
        canvas, sampler, step = self.canvas, self.sampler, m.step
        active_B = open_BG.any(1)
        reads_all = self.mover is not None or (self.particles is not None and self.particles.reads_all)
        reads_B = active_B if reads_all else active_B & self.guide.reads(canvas)
        wanted_BG = torch.where(reads_B[:, None], canvas.masked_BG, open_BG) | self.schedule.reads_at(m, open_BG)
        if self.cache:
            wanted_BG = self.cache.reach(wanted_BG, inside_G)
        logits_NV, shadow_BG = self.predict(rows, wanted_BG, inside_G)
        if sampler.eos == "logits_eos_inf":
            logits_NV[:, self.denoiser.eos_ids[0]] = -torch.inf
        if self.particles:
            ancestor_B = self.particles.weigh(canvas, active_B, logits_NV, wanted_BG, step)
            if ancestor_B is not None:
                parts = logits_NV.split(wanted_BG.sum(1).tolist())
                self.copy_rows(ancestor_B)
                m = self.moment(inside_G, m.index, step)
                open_BG = self.schedule.candidates(m)
                wanted_BG = wanted_BG[ancestor_B]
                logits_NV = torch.cat([parts[a] for a in ancestor_B.tolist()])
                rows = open_BG.any(1).nonzero()[:, 0].tolist()
                if not rows:
                    return torch.zeros_like(open_BG), None, lambda: None
        unmoved_NV = None
        if self.mover:
            unmoved_NV, masked_N = logits_NV, canvas.masked_BG[wanted_BG]
            logits_NV = logits_NV.clone()
            logits_NV[masked_N] = self.mover(rows, canvas, unmoved_NV[masked_N], wanted_BG & canvas.masked_BG, step)
        # At T = 0 what fills a mask and what is proposed is the same token, whatever the scale.
        drawn = sampler.temperature > 0 or sampler.top_p < 1.0
        top_N = None if drawn else likeliest(logits_NV, canvas.mask_id)
        scale_B, reward_B = self.guide(logits_NV, top_N, canvas, wanted_BG, rows, step)
        read_BG = self.schedule.reads_at(m, open_BG) & wanted_BG
        row_N, position_N = read_BG.nonzero().unbind(1)
        if not bool((read_BG == wanted_BG).all()):
            is_read_N = read_BG[wanted_BG]
            logits_NV, top_N = logits_NV[is_read_N], None if top_N is None else top_N[is_read_N]
            unmoved_NV = None if unmoved_NV is None else unmoved_NV[is_read_N]
        rank = self.ranker(logits_NV, unmoved_NV, top_N, open_BG, read_BG, position_N - start, step)

        ranking = rank(scale_B)
        self.schedule.observe(ranking.ranked, m)
        chosen_BG = self.schedule.choose(ranking.ranked, m)
        chosen_N = chosen_BG[read_BG]
        at, tokens = (row_N[chosen_N], position_N[chosen_N]), ranking.token_N[chosen_N]
        log_p = ranking.log_p_N[chosen_N]
        near = self.near_ties(logits_NV[chosen_N], tokens, ranking, chosen_BG)
        canvas.response_BG[at] = tokens
        self.psi_BG[at] = log_p.exp()
        entries = zip(*(t.tolist() for t in (*at, tokens, log_p.exp(), near)), strict=True)
        for row, position, token, confidence, is_near in entries:
            trace = self.traces[row]
            trace.near_tie.append(is_near)
            trace.step.append(step)
            trace.position.append(position)
            trace.token.append(token)
            trace.confidence.append(confidence)
            trace.reward.append(reward_B[row] if reward_B else None)
            trace.scale.append(float(scale_B[row]) if scale_B is not None else None)
            trace.pairs.append(None)
            trace.reversals.append(None)
            trace.other_set.append(None)
            trace.masked.append(None)

        def look() -> None:
            if scale_B is not None:
                plain = rank(None)
                other_BG = self.schedule.choose(plain.ranked, m)
                self.compare(plain.ranked.score_BG, other_BG, ranking.ranked, chosen_BG, rows)

        if self.particles:
            sums_B = torch.zeros(len(self.traces), dtype=torch.float64, device=log_p.device)
            self.particles.committed(canvas, self.traces, sums_B.index_add(0, at[0], log_p), step)
        if sampler.eos == "stop":
            stop_after_end(canvas, self.denoiser.eos_ids)
        return chosen_BG, shadow_BG, look

    def near_ties(self, logits_CV: Tensor, token_C: Tensor, ranking: _Ranking, chosen_BG: Tensor) -> Tensor:
        """Which of the C chosen tokens a last bit of the model's dtype could have decided otherwise, (C,): the token itself
        where nothing is drawn, or the choice of its step where scores come of logits."""
        sampler, dtype = self.sampler, self.denoiser.dtype
        unit_C = ulp(logits_CV.gather(-1, token_C[:, None])[:, 0], dtype)
        near_C = torch.zeros_like(chosen_BG[chosen_BG])
        if sampler.temperature == 0 and sampler.top_p >= 1.0:
            near_C |= lead(logits_CV, token_C, self.canvas.mask_id).abs() < unit_C
        if sampler.order not in READ_NO_TOKEN and sampler.order_temperature == 0:
            unit_BG = torch.zeros(chosen_BG.shape, dtype=unit_C.dtype, device=unit_C.device)
            unit_BG[chosen_BG] = unit_C
            near_C |= hangs(ranking.score_BG, chosen_BG, unit_BG)[:, None].expand_as(chosen_BG)[chosen_BG]
        return near_C

    def ranker(
        self,
        logits_NV: Tensor,
        unmoved_NV: Tensor | None,
        top_N: Tensor | None,
        open_BG: Tensor,
        read_BG: Tensor,
        offset_N: Tensor,
        step: int,
    ) -> Callable[[Tensor | None], _Ranking]:
        """How logits (N, V) at the positions that are read, and, where nothing is drawn, their likeliest tokens, rank the
        open ones under a scale for each row of the batch. unmoved_NV: the logits before a mover moved them.

        A few positions at a time, so that copies for a large vocabulary never exist for all of them; and without
        probabilities of all tokens where nobody reads them.
        """
        sampler, mask_id = self.sampler, self.canvas.mask_id
        row_N, position_N = read_BG.nonzero().unbind(1)
        key_N = self.canvas.key_B[row_N]
        same = sampler.temperature in (0.0, 1.0) and sampler.top_p >= 1.0
        reads_one_token = not (
            reads_all_tokens(sampler.order)
            or self.schedule.reads
            or unmoved_NV is not None
            or sampler.confidence == "model_dtype"
        )
        end_E = torch.tensor(self.denoiser.eos_ids, device=logits_NV.device)
        without_ends = sampler.eos == "confidence_eos_eot_inf"

        def ends_out(z_NV: Tensor) -> Tensor:
            """The logits that orders read."""
            return z_NV.index_fill(1, end_E, -torch.inf) if without_ends else z_NV

        def ordered_by(n: slice, z_NV: Tensor, raw_NV: Tensor, tempered_NV: Tensor) -> Tensor:
            """The log-probabilities that orders read."""
            if unmoved_NV is not None:
                return temper(ends_out(unmoved_NV[n].double()), sampler.temperature, 1.0)
            if sampler.confidence == "model_dtype":
                return rounded_log_p(ends_out(z_NV), self.denoiser.dtype)
            if sampler.confidence == "raw":
                return log_softmax(ends_out(z_NV)) if without_ends else raw_NV
            return temper(ends_out(z_NV), sampler.temperature, sampler.top_p) if without_ends else tempered_NV

        def part(n: slice, scale_B: Tensor | None) -> tuple[Tensor, ...]:
            scale_N = None if scale_B is None else scale_B[row_N[n]]
            known_N = top_N[n] if top_N is not None and (scale_N is None or self.guide.target == "all") else None
            if known_N is not None and reads_one_token:
                token_N = known_N
                raw_N = log_p_N = log_p_of(logits_NV[n], token_N, scale_N)
                if without_ends:
                    log_p_N = log_p_of(ends_out(logits_NV[n]), token_N, scale_N)
                read_N, log_p_NV = raw_N[:, None][:, :0], None
            else:
                z_NV = logits_NV[n].double()
                if scale_N is not None:
                    z_NV = apply(z_NV, scale_N, self.guide.target)
                tempered_NV = temper(z_NV, sampler.temperature, sampler.top_p)
                raw_NV = tempered_NV if same else log_softmax(z_NV)
                token_N = (
                    propose(tempered_NV, sampler.temperature, mask_id, key_N[n], step, position_N[n], GUMBEL)
                    if known_N is None
                    else known_N
                )
                log_p_NV = ordered_by(n, z_NV, raw_NV, tempered_NV)
                raw_N, log_p_N = (values.gather(-1, token_N[:, None])[:, 0] for values in (raw_NV, log_p_NV))
                read_N = self.schedule.read(raw_NV)
            log_p_N = log_p_N.clamp(min=LOWEST)  # −inf stands for a closed position
            prediction = Prediction(position_N[n], offset_N[n], token_N, log_p_N, log_p_NV)
            score_N = order_scores(sampler.order, prediction, key_N[n], step, self.pc)
            return token_N, score_N, log_p_N, raw_N, read_N

        def rank(scale_B: Tensor | None) -> _Ranking:
            budget = CHUNK_BYTES["cuda" if logits_NV.is_cuda else "cpu"]
            size = max(1, budget // (8 * logits_NV.shape[-1]))
            chunks = [slice(start, start + size) for start in range(0, len(logits_NV), size)]
            found = zip(*(part(chunk, scale_B) for chunk in chunks), strict=True)
            token_N, score_N, log_p_N, raw_N, read_N = (torch.cat(values) for values in found)
            score_N = draw_order(score_N, sampler.order, sampler.order_temperature, key_N, step, position_N)
            if sampler.eos == "suppress" or (without_ends and sampler.order not in READ_NO_TOKEN):
                is_end_N = torch.isin(token_N, end_E)
                score_N = score_N.masked_fill(is_end_N, torch.finfo(score_N.dtype).min)
                log_p_N = log_p_N.masked_fill(is_end_N, LOWEST)
            ranked = Ranked(open_BG, read_BG, read_N, score_N, log_p_N)
            scores_BG = ranked.score_BG
            if sampler.ties == "probability":
                ranked = Ranked(open_BG, read_BG, read_N, break_ties(score_N, raw_N), log_p_N)
            return _Ranking(token_N, raw_N, ranked, scores_BG)

        return rank

    def compare(self, plain_BG: Tensor, other_BG: Tensor, ranked: Ranked, chosen_BG: Tensor, rows: list[int]) -> None:
        """Add to the entries of this step how the pairs and the choice differ from those of plain scores."""
        counts = count_reversals(plain_BG[rows], ranked.score_BG[rows], ranked.open_BG[rows])
        for row, (pairs, reversals) in zip(rows, counts, strict=True):
            trace, other = self.traces[row], bool((other_BG[row] != chosen_BG[row]).any())
            for n in range(len(trace.step) - int(chosen_BG[row].sum()), len(trace.step)):
                trace.pairs[n], trace.reversals[n], trace.other_set[n] = pairs, reversals, other

    def predict(self, rows: list[int], wanted_BG: Tensor, inside_G: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits at the wanted positions, and, for schedules with a shadow, the probability of each committed token of
        the block, blind to itself (1 elsewhere)."""
        logits, shadow_BG = [], torch.ones_like(self.psi_BG) if self.schedule.shadow else None
        for chunk in torch.tensor(rows, device=wanted_BG.device).split(self.most_rows):
            part, listed = self.canvas.rows(chunk), chunk.tolist()
            extra = int(inside_G.sum()) if self.schedule.shadow else 0
            with charge(self.costs, listed, "mdm_seconds"):
                through = part.attention_BL.sum(1).tolist()
                if self.cache:
                    found, through = self.cache.logits(part, chunk, wanted_BG[chunk], inside_G)
                    logits.append(found)
                elif shadow_BG is None:
                    logits.append(_predict(self.denoiser, part, wanted_BG[chunk], self.sampler))
                else:
                    found, shadow_BG[chunk] = _predict_shadowed(self.denoiser, part, wanted_BG[chunk], inside_G)
                    logits.append(found)
            passes = 2 if self.sampler.cfg_scale > 0 else 1
            for row, tokens in zip(listed, through, strict=True):
                self.costs[row].mdm_passes += passes
                self.costs[row].mdm_tokens += passes * (tokens + extra)
        logits_NV = torch.cat(logits) if len(logits) > 1 else logits[0]
        if not bool(logits_NV.amax(-1).isfinite().all()):
            raise RunError("The model returned logits that are not finite: check the checkpoint and model.dtype.")
        return logits_NV, shadow_BG

    def copy_rows(self, ancestor_B: Tensor | None) -> None:
        """Let each row go on from where its ancestor is."""
        if ancestor_B is None:
            return
        self.canvas.response_BG.copy_(self.canvas.response_BG[ancestor_B])
        self.psi_BG, self.started_B = self.psi_BG[ancestor_B], self.started_B[ancestor_B]
        self.memory = {name: values[ancestor_B] for name, values in self.memory.items()}
        parents = ancestor_B.tolist()
        self.traces = [self.traces[a] if a == row else self.traces[a].until(LAST) for row, a in enumerate(parents)]
        self.guide.copy_rows(ancestor_B)
        if self.cache:
            self.cache.copy_rows(ancestor_B)


def _predict(denoiser: Denoiser, part: Canvas, wanted_BG: Tensor, sampler: Sampler) -> Tensor:
    """Logits at the wanted response positions, with classifier-free guidance if asked: z_u + (w + 1)(z_c − z_u), in the
    model's dtype where confidences are."""
    wanted_BL = torch.zeros_like(part.attention_BL)
    wanted_BL[:, part.start :] = wanted_BG
    logits_NV = denoiser.logits(part.tokens_BL, part.attention_BL, wanted_BL)
    if sampler.cfg_scale > 0:
        unconditional_BL = part.tokens_BL.clone()
        unconditional_BL[:, : part.start].masked_fill_(part.attention_BL[:, : part.start], part.mask_id)
        without_NV = denoiser.logits(unconditional_BL, part.attention_BL, wanted_BL)
        dtype = denoiser.dtype if sampler.confidence == "model_dtype" else logits_NV.dtype
        without_NV, with_NV = without_NV.to(dtype), logits_NV.to(dtype)
        logits_NV = (without_NV + (sampler.cfg_scale + 1) * (with_NV - without_NV)).to(logits_NV.dtype)
    return logits_NV


def _predict_shadowed(denoiser: Denoiser, part: Canvas, wanted_BG: Tensor, inside_G: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the wanted positions, and the shadow's probability of each committed token inside (1 elsewhere)."""
    wanted_BL, block_L = torch.zeros_like(part.attention_BL), torch.zeros_like(part.attention_BL[0])
    wanted_BL[:, part.start :], block_L[part.start :] = wanted_BG, inside_G
    logits_NV, shadow_BKV = denoiser.shadowed(part.tokens_BL, part.attention_BL, wanted_BL, block_L)
    tokens_BK = part.response_BG[:, inside_G]
    log_p_BK = log_softmax(shadow_BKV.double().flatten(0, 1)).gather(-1, tokens_BK.reshape(-1, 1)).view(tokens_BK.shape)
    shadow_BG = torch.ones(wanted_BG.shape, dtype=torch.float64, device=wanted_BG.device)
    shadow_BG[:, inside_G] = log_p_BK.exp().masked_fill(tokens_BK == part.mask_id, 1.0)
    return logits_NV, shadow_BG


def stop_after_end(canvas: Canvas, eos_ids: tuple[int, ...]) -> None:
    """Where an end token stands with nothing masked before it, fill all that is masked behind it with end tokens."""
    response_BG = canvas.response_BG
    end_BG = torch.isin(response_BG, torch.tensor(eos_ids, device=response_BG.device))
    nothing_masked_before_BG = canvas.masked_BG.cumsum(-1) == 0
    finished_B = (end_BG & nothing_masked_before_BG).any(-1)
    response_BG[finished_B[:, None] & canvas.masked_BG] = eos_ids[0]


class _Guide:
    """The scale of each row's logits at each step: none, a constant, a reward's, or one that was recorded.

    shown_BG: what was last shown of each position, for masked ones whose logits a cache leaves out."""

    def __init__(self, sampler: Sampler, scorer: Scorer | None, replayed: Sequence[Scales]) -> None:
        self.settings = sampler.guidance
        self.scorer, self.replayed = scorer, replayed
        self.held: dict[int, tuple[float, float]] = {}
        self.calls: dict[int, int] = {}
        self.shown_BG: Tensor | None = None
        self.target = getattr(self.settings, "target", "all")

    def copy_rows(self, ancestor_B: Tensor) -> None:
        parents = ancestor_B.tolist()
        self.held = {row: self.held[a] for row, a in enumerate(parents) if a in self.held}
        self.calls = {row: self.calls[a] for row, a in enumerate(parents) if a in self.calls}
        self.shown_BG = None if self.shown_BG is None else self.shown_BG[ancestor_B]

    def due(self, row: int) -> bool:
        """Whether the row's next step asks the reward."""
        return isinstance(self.settings, RewardGuidance) and self.calls.get(row, 0) % self.settings.reward_every == 0

    def reads(self, canvas: Canvas) -> Tensor:
        """Rows (B,) whose next step needs the logits of all masked positions."""
        rows = range(len(canvas.tokens_BL))
        return torch.tensor([self.due(row) for row in rows], device=canvas.tokens_BL.device)

    def __call__(
        self,
        logits_NV: Tensor,
        top_N: Tensor | None,
        canvas: Canvas,
        wanted_BG: Tensor,
        rows: list[int],
        step: int,
    ) -> tuple[Tensor | None, list[float] | None]:
        """Scales (B,) and raw rewards (B,) of all rows, 1 and not a number where a row is not among `rows`; None where
        nothing scales the logits."""
        settings = self.settings
        scale_B = torch.ones(len(wanted_BG), dtype=torch.float64, device=logits_NV.device)
        if isinstance(settings, TemperatureGuidance):
            return scale_B * settings.scale, None
        if isinstance(settings, ReplayGuidance):
            for row in rows:
                scale_B[row] = scale_at(self.replayed[row], step)
            return scale_B, None
        if not isinstance(settings, RewardGuidance):
            return None, None
        assert self.scorer is not None
        if due := [row for row in rows if self.due(row)]:
            shown_BG = self.show(logits_NV, top_N, canvas, wanted_BG, step)
            filled_B = 1 - canvas.masked_BG.double().mean(1)
            scores = self.scorer(due, shown_BG[due], filled_B[due].tolist(), step)
            for row, score in zip(due, scores, strict=True):
                r = normalize(score, settings.normalize, self.scorer.statistics)
                self.held[row] = (scale(r, settings), score)
        reward_B = [float("nan")] * len(scale_B)
        for row in rows:
            self.calls[row] = self.calls.get(row, 0) + 1
            scale_B[row], reward_B[row] = self.held[row]
        return scale_B, reward_B

    def show(self, logits_NV: Tensor, top_N: Tensor | None, canvas: Canvas, wanted_BG: Tensor, step: int) -> Tensor:
        """The responses with their masks filled: those that are wanted from logits, any others as they were last. top_N:
        their likeliest tokens, where these are known."""
        row_N, position_N = wanted_BG.nonzero().unbind(1)
        if self.settings.fill != "argmax" or top_N is None:
            top_N = fill(logits_NV, self.settings.fill, canvas.mask_id, canvas.key_B[row_N], step, position_N)
        shown_BG = canvas.response_BG.clone()
        if self.shown_BG is not None:
            shown_BG = torch.where(canvas.masked_BG, self.shown_BG, shown_BG)
        shown_BG[wanted_BG] = torch.where(canvas.masked_BG[wanted_BG], top_N, shown_BG[wanted_BG])
        self.shown_BG = shown_BG
        return shown_BG
