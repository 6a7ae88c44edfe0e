"""The diffusion loop: predict, guide, order, choose, commit; until no mask remains.

This file alone counts cost, draws random numbers' keys and records the trace; the parts that it calls are functions
over tensors that know of none of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import Statistics, apply, count_reversals, fill, normalize, scale
from rws_cli.decoding.orders import ORDERS
from rws_cli.decoding.prediction import GUMBEL, Prediction, log_softmax, propose, temper
from rws_cli.decoding.replay import Scales, scale_at
from rws_cli.decoding.schedules import best, commits_per_step
from rws_cli.errors import RunError
from rws_cli.schema import ReplayGuidance, RewardGuidance, Sampler, TemperatureGuidance


class Denoiser(Protocol):
    """A masked diffusion model: for each wanted position (B, L), in row-major order, the logits (N, V), float32."""

    @property
    def mask_id(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor) -> Tensor: ...


@dataclass
class Cost:
    """What one row has cost. Tokens are those put through a model, padding not counted; seconds are the row's share."""

    mdm_passes: int = 0
    mdm_tokens: int = 0
    mdm_seconds: float = 0.0
    reward_calls: int = 0
    reward_hits: int = 0
    reward_tokens: int = 0
    reward_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class RowTrace:
    """One entry a committed token, in the order of commits (positions ascending within a step).

    confidence: the proposed token's probability under the guided, untempered softmax. reward: the raw score at that
    step and scale: what it made of the logits (both None without reward guidance). pairs, reversals: pairs of positions
    open at that step, and those whose order the scale turned around; other_set: whether it committed other positions
    than a scale of 1 would have (all None where nothing scales).
    """

    step: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    reward: list[float | None] = field(default_factory=list)
    scale: list[float | None] = field(default_factory=list)
    pairs: list[int | None] = field(default_factory=list)
    reversals: list[int | None] = field(default_factory=list)
    other_set: list[bool | None] = field(default_factory=list)


class Scorer(Protocol):
    """Scores the texts of some rows: (rows, filled response tokens (B, G), share filled, step) → a score for each.

    `statistics` normalizes the scores. The scorer charges its calls to the rows' costs.
    """

    statistics: Statistics

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]: ...


@contextmanager
def charge(costs: Sequence[Cost], rows: list[int], name: str) -> Iterator[None]:
    """Divide the seconds spent inside equally among `rows`."""
    started = time.perf_counter()
    yield
    share = (time.perf_counter() - started) / max(len(rows), 1)
    for row in rows:
        setattr(costs[row], name, getattr(costs[row], name) + share)


@torch.inference_mode()
def decode(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    scorer: Scorer | None = None,
    costs: list[Cost] | None = None,
    on_step: Callable[[int], None] = lambda committed: None,
    replayed: Sequence[Scales] = (),
) -> list[RowTrace]:
    """Fill the canvas in place, block by block (LLaDA, arXiv 2502.09992, semi-autoregressive for several blocks).

    scorer and replayed, scales for each row, are what reward guidance and replay guidance need.
    Rows are independent: each row's result is the same alone or in any batch. Returns a trace for each row, adds to
    `costs`, and calls `on_step` with the number of tokens committed. Raises RunError if logits are not numbers.
    """
    size = len(canvas.tokens_BL)
    costs = [Cost() for _ in range(size)] if costs is None else costs
    traces = [RowTrace() for _ in range(size)]
    guide = _Guide(sampler, scorer, replayed)
    position_G = torch.arange(sampler.gen_length, device=canvas.tokens_BL.device)
    step = -1
    for block in range(sampler.blocks):
        inside_G = position_G // sampler.block_length == block
        for count in commits_per_step(sampler.block_length, sampler.steps_per_block):
            step += 1
            open_BG = canvas.masked_BG & inside_G
            rows = open_BG.any(1).nonzero()[:, 0]
            if count == 0 or len(rows) == 0:
                continue
            with charge(costs, rows.tolist(), "seconds"):
                move = _step(denoiser, canvas, sampler, guide, costs, traces, rows, open_BG[rows], step, count)
            _compare_with_unscaled(move, traces, rows.tolist())  # to look is not to decode: nobody is charged for it
            on_step(int(move.ranking.chosen_BG.sum()))
    return traces


@dataclass
class _Ranking:
    """How a step ranks the open positions: proposed tokens, untempered log-probabilities, scores and choice."""

    token_N: Tensor
    raw_NV: Tensor
    score_BG: Tensor
    chosen_BG: Tensor


@dataclass
class _Move:
    """A step that was made, and, where something scaled the logits, how to rank without it."""

    ranking: _Ranking
    open_BG: Tensor
    unscaled: Callable[[], _Ranking] | None


def _step(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    guide: _Guide,
    costs: list[Cost],
    traces: list[RowTrace],
    rows: Tensor,
    open_BG: Tensor,
    step: int,
    count: int,
) -> _Move:
    """One step on the rows that still have open positions."""
    part = canvas.rows(rows)
    listed = rows.tolist()
    wanted_BG = part.masked_BG if guide.reads_all else open_BG
    with charge(costs, listed, "mdm_seconds"):
        logits_NV = _predict(denoiser, part, wanted_BG, sampler.cfg_scale)
    for row, tokens in zip(listed, part.attention_BL.sum(1).tolist(), strict=True):
        passes = 2 if sampler.cfg_scale > 0 else 1
        costs[row].mdm_passes += passes
        costs[row].mdm_tokens += passes * tokens

    scale_B, reward_B = guide(logits_NV, part, wanted_BG, listed, step)
    here_N = open_BG[wanted_BG]
    row_N, position_N = open_BG.nonzero().unbind(1)
    plain_NV = logits_NV[here_N].double()
    z_NV = plain_NV if scale_B is None else apply(plain_NV, scale_B[row_N], guide.target)
    key_N = part.key_B[row_N]

    def rank(z_NV: Tensor) -> _Ranking:
        tempered_NV = temper(z_NV, sampler.temperature, sampler.top_p)
        token_N = propose(tempered_NV, sampler.temperature, canvas.mask_id, key_N, step, position_N, GUMBEL)
        raw_NV = log_softmax(z_NV)
        log_p_NV = raw_NV if sampler.confidence == "raw" else tempered_NV
        score_N = ORDERS[sampler.order](log_p_NV, Prediction(position_N, token_N), key_N, step)
        if sampler.eos == "suppress":
            is_end_N = torch.isin(token_N, torch.tensor(denoiser.eos_ids, device=token_N.device))
            score_N = score_N.masked_fill(is_end_N, torch.finfo(score_N.dtype).min)
        score_BG = torch.full(open_BG.shape, -torch.inf, dtype=torch.float64, device=z_NV.device)
        score_BG[open_BG] = score_N
        return _Ranking(token_N, raw_NV, score_BG, best(score_BG, torch.full_like(rows, count)))

    ranking = rank(z_NV)
    chosen_N = ranking.chosen_BG[open_BG]
    chosen_rows, chosen_positions, chosen_tokens = row_N[chosen_N], position_N[chosen_N], ranking.token_N[chosen_N]
    canvas.response_BG[rows[chosen_rows], chosen_positions] = chosen_tokens
    if sampler.eos == "stop":
        stop_after_end(canvas, denoiser.eos_ids)

    chosen_log_p = ranking.raw_NV[chosen_N].gather(-1, chosen_tokens[:, None])[:, 0]
    for b, position, token, log_p in zip(
        *(t.tolist() for t in (chosen_rows, chosen_positions, chosen_tokens, chosen_log_p.exp())), strict=True
    ):
        trace = traces[listed[b]]
        trace.step.append(step)
        trace.position.append(position)
        trace.token.append(token)
        trace.confidence.append(log_p)
        trace.reward.append(reward_B[b] if reward_B else None)
        trace.scale.append(float(scale_B[b]) if scale_B is not None else None)
    return _Move(ranking, open_BG, None if scale_B is None else lambda: rank(plain_NV))


def _compare_with_unscaled(move: _Move, traces: list[RowTrace], rows: list[int]) -> None:
    """Add to the traces of the rows of a move how a scale of 1 would have ranked and chosen."""
    plain = move.unscaled() if move.unscaled else None
    counts = count_reversals(plain.score_BG, move.ranking.score_BG, move.open_BG) if plain else []
    other_B = (plain.chosen_BG != move.ranking.chosen_BG).any(1).tolist() if plain else []
    for b, (row, committed) in enumerate(zip(rows, move.ranking.chosen_BG.sum(1).tolist(), strict=True)):
        pairs, reversals = counts[b] if plain else (None, None)
        traces[row].pairs += [pairs] * committed
        traces[row].reversals += [reversals] * committed
        traces[row].other_set += [other_B[b] if plain else None] * committed


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
    if bool(torch.isnan(logits_NV).any()):
        raise RunError("The model returned logits that are not numbers: check the checkpoint and model.dtype.")
    return logits_NV


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

    def __call__(
        self, logits_NV: Tensor, part: Canvas, wanted_BG: Tensor, rows: list[int], step: int
    ) -> tuple[Tensor | None, list[float] | None]:
        """Scales (B,) and raw rewards of the rows of `part`; None where nothing scales the logits."""
        settings = self.settings
        if isinstance(settings, TemperatureGuidance):
            return torch.full((len(rows),), settings.scale, dtype=torch.float64, device=logits_NV.device), None
        if isinstance(settings, ReplayGuidance):
            recorded = [scale_at(self.replayed[row], step) for row in rows]
            return torch.tensor(recorded, dtype=torch.float64, device=logits_NV.device), None
        if not isinstance(settings, RewardGuidance):
            return None, None
        assert self.scorer is not None
        due = [b for b, row in enumerate(rows) if self.calls.get(row, 0) % settings.every == 0]
        if due:
            row_N, position_N = wanted_BG.nonzero().unbind(1)
            shown_BG = part.response_BG.clone()
            shown_BG[wanted_BG] = fill(logits_NV, settings.fill, part.mask_id, part.key_B[row_N], step, position_N)
            filled = (1 - part.masked_BG.double().mean(1)).tolist()
            scores = self.scorer([rows[b] for b in due], shown_BG[due], [filled[b] for b in due], step)
            for b, score in zip(due, scores, strict=True):
                r = normalize(score, settings.normalize, self.scorer.statistics)
                self.held[rows[b]] = (scale(r, settings), score)
        for row in rows:
            self.calls[row] = self.calls.get(row, 0) + 1
        scales = torch.tensor([self.held[row][0] for row in rows], dtype=torch.float64, device=logits_NV.device)
        return scales, [self.held[row][1] for row in rows]
