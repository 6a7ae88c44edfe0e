"""The diffusion loop: predict, guide, order, choose, commit; until no mask remains.

This file alone counts cost, draws random numbers' keys and records the trace; the parts that it calls are functions
over tensors that know of none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import apply, count_reversals, fill, normalize, scale
from rws_cli.decoding.orders import PC, draw_order, order_scores
from rws_cli.decoding.prediction import GUMBEL, Prediction, log_softmax, propose, temper
from rws_cli.decoding.protocols import Denoiser, Mover, Particles, Scorer
from rws_cli.decoding.record import LAST, Cost, RowTrace, charge
from rws_cli.decoding.replay import Scales, scale_at
from rws_cli.decoding.review import review
from rws_cli.decoding.schedules import SCHEDULES, Moment, Ranked
from rws_cli.errors import RunError
from rws_cli.schema import R3Review, ReplayGuidance, RewardGuidance, Sampler, TemperatureGuidance

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
"""Size of the float64 probabilities that are worked on at a time."""


def decode(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    scorer: Scorer | None = None,
    costs: list[Cost] | None = None,
    on_step: Callable[[int], None] = lambda committed: None,
    replayed: Sequence[Scales] = (),
    mover: Mover | None = None,
    pc: PC | None = None,
    particles: Particles | None = None,
    most_rows: int | None = None,
) -> list[RowTrace]:
    """Fill the canvas in place, block by block (LLaDA, arXiv 2502.09992, semi-autoregressive for several blocks).

    scorer: for whatever reads a reward; replayed: scales for each row, for replay guidance; mover: for gradient guidance;
    pc: for the order pc; particles: for a search, by which rows are copied over each other. most_rows: rows in one
    forward pass (all of them, if not given).
    Rows are independent but for particles of one group: each row's result is the same alone or in any batch. Returns a
    trace for each row, adds to `costs`, and calls `on_step` with the number of tokens committed. Raises RunError if
    logits are not numbers.
    """
    costs = [Cost() for _ in range(len(canvas.tokens_BL))] if costs is None else costs
    guide = _Guide(sampler, scorer, replayed)
    decoding = Decoding(denoiser, canvas, sampler, guide, costs, on_step, mover, pc, particles, most_rows)
    with torch.inference_mode():
        return decoding.run(scorer)


@dataclass
class _Ranking:
    """How a step ranks the open positions: proposed tokens, their untempered log-probabilities, and what a schedule
    reads of them."""

    token_N: Tensor
    log_p_N: Tensor
    ranked: Ranked


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
        on_step: Callable[[int], None],
        mover: Mover | None,
        pc: PC | None,
        particles: Particles | None,
        most_rows: int | None,
    ) -> None:
        self.denoiser, self.canvas, self.sampler, self.guide, self.costs = denoiser, canvas, sampler, guide, costs
        self.on_step, self.mover, self.pc, self.particles = on_step, mover, pc, particles
        self.most_rows = most_rows or len(canvas.tokens_BL)
        self.schedule = SCHEDULES[sampler.schedule.kind](sampler)
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
                self.mask(again_BG)
                start = max(0, block + 1 - settings.window) * length
                self.fill((place_G >= start) & (place_G < (block + 1) * length), start, step)
            if self.particles:
                self.copy_rows(self.particles.block_ended(first))
        return self.traces

    def fill(self, inside_G: Tensor, start: int, first: int) -> None:
        """Decode until nothing inside is masked; `start` is the first position inside, `first` the number of its first
        step."""
        self.started_B = (self.canvas.masked_BG & inside_G).sum(-1)
        for index in range(self.schedule.steps):
            m = self.moment(inside_G, index, first + index)
            if (again_BG := self.schedule.before(m)) is not None:
                self.mask(again_BG)
                m = self.moment(inside_G, index, first + index)
            open_BG = self.schedule.candidates(m)
            rows = open_BG.any(1).nonzero()[:, 0].tolist()
            chosen_BG, shadow_BG = torch.zeros_like(open_BG), None
            if rows:
                with charge(self.costs, rows, "seconds"):
                    chosen_BG, shadow_BG, look = self.step(m, open_BG, rows, inside_G, start)
                look()  # to look is not to decode: nobody is charged for it
                self.on_step(int(chosen_BG.sum()))
            if (again_BG := self.schedule.after(chosen_BG, shadow_BG, m)) is not None:
                self.mask(again_BG)

    def moment(self, inside_G: Tensor, index: int, step: int) -> Moment:
        masked_BG = self.canvas.masked_BG
        return Moment(
            index, step, masked_BG & inside_G, ~masked_BG & inside_G, self.started_B, self.psi_BG, self.canvas.key_B,
            self.memory,
        )  # fmt: skip

    def mask(self, again_BG: Tensor) -> None:
        self.canvas.response_BG[again_BG] = self.canvas.mask_id

    def step(
        self, m: Moment, open_BG: Tensor, rows: list[int], inside_G: Tensor, start: int
    ) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
        """One step on the rows that have open positions: what it committed, what a shadow says of committed tokens,
        and a function that adds to the trace how a scale of 1 would have ranked and chosen."""
        canvas, sampler, step = self.canvas, self.sampler, m.step
        active_B = open_BG.any(1)
        reads_all = self.guide.reads_all or self.mover is not None
        reads_all = reads_all or (self.particles is not None and self.particles.reads_all)
        wanted_BG = canvas.masked_BG & active_B[:, None] if reads_all else open_BG
        logits_NV, shadow_BG = self.predict(rows, wanted_BG, inside_G)
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
        if self.mover:
            logits_NV = self.mover(rows, canvas, logits_NV, wanted_BG, step)
        scale_B, reward_B = self.guide(logits_NV, canvas, wanted_BG, rows, step)
        row_N, position_N = open_BG.nonzero().unbind(1)
        open_NV = logits_NV if bool((open_BG == wanted_BG).all()) else logits_NV[open_BG[wanted_BG]]
        rank = self.ranker(open_NV, open_BG, row_N, position_N - start, position_N, step)

        ranking = rank(scale_B)
        self.schedule.observe(ranking.ranked, m)
        chosen_BG = self.schedule.choose(ranking.ranked, m)
        chosen_N = chosen_BG[open_BG]
        at, tokens = (row_N[chosen_N], position_N[chosen_N]), ranking.token_N[chosen_N]
        log_p = ranking.log_p_N[chosen_N]
        canvas.response_BG[at] = tokens
        self.psi_BG[at] = log_p.exp()
        for row, position, token, confidence in zip(*(t.tolist() for t in (*at, tokens, log_p.exp())), strict=True):
            trace = self.traces[row]
            trace.step.append(step)
            trace.position.append(position)
            trace.token.append(token)
            trace.confidence.append(confidence)
            trace.reward.append(reward_B[row] if reward_B else None)
            trace.scale.append(float(scale_B[row]) if scale_B is not None else None)
            trace.pairs.append(None)
            trace.reversals.append(None)
            trace.other_set.append(None)

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

    def ranker(
        self, open_NV: Tensor, open_BG: Tensor, row_N: Tensor, offset_N: Tensor, position_N: Tensor, step: int
    ) -> Callable[[Tensor | None], _Ranking]:
        """How logits (N, V) at the open positions rank them under a scale for each row of the batch.

        A few positions at a time, so that float64 probabilities of a large vocabulary never exist for all of them.
        """
        sampler, key_N = self.sampler, self.canvas.key_B[row_N]
        same = sampler.temperature in (0.0, 1.0) and sampler.top_p >= 1.0

        def part(n: Tensor, scale_B: Tensor | None) -> tuple[Tensor, ...]:
            z_NV = open_NV[n].double()
            if scale_B is not None:
                z_NV = apply(z_NV, scale_B[row_N[n]], self.guide.target)
            tempered_NV = temper(z_NV, sampler.temperature, sampler.top_p)
            raw_NV = tempered_NV if same else log_softmax(z_NV)
            token_N = propose(
                tempered_NV, sampler.temperature, self.canvas.mask_id, key_N[n], step, position_N[n], GUMBEL
            )
            log_p_NV = raw_NV if sampler.confidence == "raw" else tempered_NV
            prediction = Prediction(position_N[n], token_N, offset_N[n])
            score_N = order_scores(sampler.order, log_p_NV, prediction, key_N[n], step, self.pc)
            raw_N, log_p_N = (values.gather(-1, token_N[:, None])[:, 0] for values in (raw_NV, log_p_NV))
            return token_N, score_N, log_p_N, raw_N, self.schedule.read(raw_NV)

        def rank(scale_B: Tensor | None) -> _Ranking:
            budget = CHUNK_BYTES["cuda" if open_NV.is_cuda else "cpu"]
            chunks = torch.arange(len(open_NV), device=open_NV.device).split(max(1, budget // (8 * open_NV.shape[-1])))
            found = zip(*(part(chunk, scale_B) for chunk in chunks), strict=True)
            token_N, score_N, log_p_N, raw_N, read_N = (torch.cat(values) for values in found)
            score_N = draw_order(score_N, sampler.order, sampler.order_temperature, key_N, step, position_N)
            if sampler.eos == "suppress":
                is_end_N = torch.isin(token_N, torch.tensor(self.denoiser.eos_ids, device=token_N.device))
                lowest = torch.finfo(score_N.dtype).min
                score_N, log_p_N = score_N.masked_fill(is_end_N, lowest), log_p_N.masked_fill(is_end_N, lowest)
            return _Ranking(token_N, raw_N, Ranked(open_BG, read_N, score_N, log_p_N))

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
                if shadow_BG is None:
                    logits.append(_predict(self.denoiser, part, wanted_BG[chunk], self.sampler.cfg_scale))
                else:
                    found, shadow_BG[chunk] = _predict_shadowed(self.denoiser, part, wanted_BG[chunk], inside_G)
                    logits.append(found)
            passes = 2 if self.sampler.cfg_scale > 0 else 1
            for row, tokens in zip(listed, part.attention_BL.sum(1).tolist(), strict=True):
                self.costs[row].mdm_passes += passes
                self.costs[row].mdm_tokens += passes * (tokens + extra)
        logits_NV = torch.cat(logits)
        if bool(torch.isnan(logits_NV).any()):
            raise RunError("The model returned logits that are not numbers: check the checkpoint and model.dtype.")
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
        self.guide.copy_rows(parents)


def _predict(denoiser: Denoiser, part: Canvas, wanted_BG: Tensor, cfg_scale: float) -> Tensor:
    """Logits at the wanted response positions, with classifier-free guidance if asked: z_u + (w + 1)(z_c − z_u)."""
    wanted_BL = torch.zeros_like(part.attention_BL)
    wanted_BL[:, part.start :] = wanted_BG
    logits_NV = denoiser.logits(part.tokens_BL, part.attention_BL, wanted_BL)
    if cfg_scale > 0:
        unconditional_BL = part.tokens_BL.clone()
        unconditional_BL[:, : part.start].masked_fill_(part.attention_BL[:, : part.start], part.mask_id)
        without_NV = denoiser.logits(unconditional_BL, part.attention_BL, wanted_BL)
        logits_NV = without_NV + (cfg_scale + 1) * (logits_NV - without_NV)
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
    """The scale of each row's logits at each step: none, a constant, a reward's, or one that was recorded."""

    def __init__(self, sampler: Sampler, scorer: Scorer | None, replayed: Sequence[Scales]) -> None:
        self.settings = sampler.guidance
        self.scorer, self.replayed = scorer, replayed
        self.held: dict[int, tuple[float, float]] = {}
        self.calls: dict[int, int] = {}
        self.reads_all = isinstance(self.settings, RewardGuidance)
        self.target = getattr(self.settings, "target", "all")

    def copy_rows(self, parents: list[int]) -> None:
        self.held = {row: self.held[a] for row, a in enumerate(parents) if a in self.held}
        self.calls = {row: self.calls[a] for row, a in enumerate(parents) if a in self.calls}

    def __call__(
        self, logits_NV: Tensor, canvas: Canvas, wanted_BG: Tensor, rows: list[int], step: int
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
        due = [row for row in rows if self.calls.get(row, 0) % settings.every == 0]
        if due:
            row_N, position_N = wanted_BG.nonzero().unbind(1)
            shown_BG = canvas.response_BG.clone()
            shown_BG[wanted_BG] = fill(logits_NV, settings.fill, canvas.mask_id, canvas.key_B[row_N], step, position_N)
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
