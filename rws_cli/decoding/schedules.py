"""Schedules: how many of the open positions a step commits, and which; and which committed ones it masks again.

One small class a method, each on its own a policy; the loop asks them, in this order, at every step of a block:
`before` (positions to mask again before the model looks), `candidates` (what may be committed), `choose` (what is),
`after` (positions to mask again once the step is made). Tensors cover all rows of the batch, shape (B, G), and no rule
reads another row's.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rws_cli.config.schema import (
    DreamSchedule,
    EntropyBoundSchedule,
    FactorSchedule,
    KlassSchedule,
    ProphetSchedule,
    RefineSchedule,
    RemdmSchedule,
    Sampler,
    ThresholdSchedule,
    WinoSchedule,
)
from rws_cli.decoding.noise import everywhere
from rws_cli.decoding.prediction import ORDER, PURPOSES, RANDOM, REMASK
from rws_cli.parts import says


def commits_per_step(masked: int, steps: int) -> list[int]:
    """LLaDA's schedule: floor(masked / steps) tokens a step, one more on the first (masked mod steps) steps."""
    base, extra = divmod(masked, steps)
    return [base + (step < extra) for step in range(steps)]


def best(score_BG: Tensor, count_B: Tensor) -> Tensor:
    """The count_B highest scores of each row, as a mask (B, G); closed positions hold −inf and are never chosen.

    Ties go to the leftmost position, so that a choice never depends on a kernel's whim.
    """
    order_BG = score_BG.argsort(dim=-1, descending=True, stable=True)
    rank_BG = torch.empty_like(order_BG).scatter_(
        -1, order_BG, torch.arange(score_BG.shape[-1], device=score_BG.device).expand_as(order_BG)
    )
    return (rank_BG < count_B[:, None]) & (score_BG > -torch.inf)


def hangs(score_BG: Tensor, chosen_BG: Tensor, unit_BG: Tensor) -> Tensor:
    """Rows (B,) whose last chosen and first refused score differ by less than a logit's unit in the last place moves them:
    relative to the larger score, by less than that unit at the last chosen position. Closed positions hold −inf."""
    last_B, place_B = score_BG.masked_fill(~chosen_BG, torch.inf).min(-1)
    first_B = score_BG.masked_fill(chosen_BG, -torch.inf).amax(-1)
    size_B = torch.maximum(last_B.abs(), first_B.abs())
    unit_B = unit_BG.gather(-1, place_B[:, None])[:, 0]
    apart_B = (last_B - first_B).abs()
    real_B = size_B < 1e300  # not where nothing is chosen or refused, or an end token was put last
    return real_B & ((apart_B < size_B * unit_B) | (apart_B == 0))


def longest(passes_BG: Tensor) -> Tensor:
    """For each row the largest n of which passes[n − 1] is true, at least 1."""
    place_G = torch.arange(1, passes_BG.shape[-1] + 1, device=passes_BG.device)
    return (passes_BG * place_G).amax(-1).clamp(min=1)


@dataclass
class Moment:
    """Where a step stands.

    index: of the step within its block, from 0; step: within the whole decoding, for random numbers. masked_BG: masked
    positions of the block; committed_BG: its others. started_B: how many were masked when the block began.
    psi_BG: the probability of each committed token when it was last committed. key_B: of the rows' random numbers.
    memory: tensors (B, …) that a schedule keeps from step to step. all_masked_BG: masked positions of the whole answer.
    """

    index: int
    step: int
    masked_BG: Tensor
    committed_BG: Tensor
    started_B: Tensor
    psi_BG: Tensor
    key_B: Tensor
    memory: dict[str, Tensor]
    all_masked_BG: Tensor

    def chance(self, counter: int) -> Tensor:
        """U(0, 1) for each position (B, G); another number for each counter."""
        return everywhere(self.key_B, self.step * PURPOSES + ORDER, self.masked_BG.shape[1], counter)


@dataclass
class Ranked:
    """What a step knows of the open positions; (B, G) tensors hold −inf where a position is closed.

    score_BG: the order's. log_p_BG: log-probability of the proposed token, lowered as far as can be where it is an end
    token to be suppressed. open_BG: the open positions. read_BG: those of Schedule.reads_at, and read_N: what
    Schedule.read made of each of them.
    """

    open_BG: Tensor
    read_BG: Tensor
    read_N: Tensor
    score_N: InitVar[Tensor]
    log_p_N: InitVar[Tensor]
    score_BG: Tensor = field(init=False)
    log_p_BG: Tensor = field(init=False)

    def __post_init__(self, score_N: Tensor, log_p_N: Tensor) -> None:
        self.score_BG, self.log_p_BG = (
            self.spread(values_N, -torch.inf).masked_fill(~self.open_BG, -torch.inf) for values_N in (score_N, log_p_N)
        )

    def spread(self, value_N: Tensor, elsewhere: float) -> Tensor:
        """A value for each position of read_BG as (B, G)."""
        out_BG = torch.full(self.read_BG.shape, elsewhere, dtype=value_N.dtype, device=value_N.device)
        out_BG[self.read_BG] = value_N
        return out_BG


class Schedule:
    """LLaDA's own (arXiv 2502.09992), and what the others share: of the m positions masked when the block began,
    floor(m / steps) a step and one more on the first ones, by score."""

    shadow = False
    """Whether each step also asks the model about committed tokens, blind to themselves."""
    reads = False
    """Whether `read` reads anything."""

    def __init__(self, sampler: Sampler) -> None:
        self.settings: Any = sampler.schedule
        self.steps = sampler.steps_per_block
        """The most steps that a block takes."""

    def before(self, m: Moment) -> Tensor | None:
        """Positions to mask again before the step."""
        return None

    def count(self, m: Moment) -> Tensor:
        """How many tokens each row commits."""
        return m.started_B // self.steps + (m.index < m.started_B % self.steps)

    def candidates(self, m: Moment) -> Tensor:
        """Positions that the step may commit; a row without any is left alone and costs nothing."""
        return m.masked_BG & (self.count(m) > 0)[:, None]

    def reads_at(self, m: Moment, open_BG: Tensor) -> Tensor:
        """Positions whose predictions the rule reads: the candidates, at least. None of a row without candidates."""
        return open_BG

    def read(self, raw_NV: Tensor) -> Tensor:
        """What the rule must know of the untempered log-probabilities of each position that it reads, (N, …)."""
        return raw_NV[:, :0]

    def observe(self, ranked: Ranked, m: Moment) -> None:
        """Keep in m.memory what a later choice needs."""

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        return best(ranked.score_BG, self.count(m))

    def after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, m: Moment) -> Tensor | None:
        """Positions to mask again after the step; shadow_BG: probability of each committed token, blind to itself."""
        return None


class Adaptive(Schedule):
    """As many as the model is sure of, at least one: a block takes at most as many steps as it has positions."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self.steps = sampler.block_length

    def candidates(self, m: Moment) -> Tensor:
        return m.masked_BG


def one(score_BG: Tensor) -> Tensor:
    return best(score_BG, torch.ones(len(score_BG), dtype=torch.int64, device=score_BG.device))


class Threshold(Adaptive):
    """Every proposed token with probability ≥ threshold, and always the best one (Fast-dLLM, arXiv 2505.22618)."""

    settings: ThresholdSchedule

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        return (ranked.log_p_BG >= math.log(self.settings.threshold)) | one(ranked.score_BG)


class Factor(Adaptive):
    """The n surest, n the largest with (n + 1)(1 − c_(n)) < factor, c sorted downward (Fast-dLLM, arXiv 2505.22618).

    Every n counts, not only those up to the first that fails; if none holds, the surest one.
    """

    settings: FactorSchedule

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        sorted_BG = ranked.log_p_BG.sort(dim=-1, descending=True).values
        place_G = torch.arange(2, sorted_BG.shape[-1] + 2, device=sorted_BG.device)
        return best(ranked.log_p_BG, longest(place_G * -sorted_BG.expm1() < self.settings.factor))


class EntropyBound(Adaptive):
    """The longest prefix U, by score, with ΣH − max H ≤ gamma, H in nats (EB-Sampler, arXiv 2505.24857)."""

    settings: EntropyBoundSchedule
    reads = True

    def read(self, raw_NV: Tensor) -> Tensor:
        """Entropies, in nats."""
        return torch.special.entr(raw_NV.exp()).sum(-1)

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        entropy_BG = ranked.spread(ranked.read_N, math.inf)
        order_BG = ranked.score_BG.argsort(dim=-1, descending=True, stable=True)
        sorted_BG = entropy_BG.gather(-1, order_BG)
        bound_BG = sorted_BG.cumsum(-1) - sorted_BG.cummax(-1).values
        return best(ranked.score_BG, longest(bound_BG <= self.settings.gamma))


class Klass(Adaptive):
    """Every token with probability ≥ threshold whose distribution has moved by KL(p_t ‖ p_{t−1}) < kl at each of the
    last `history` steps, else the best one (KLASS, arXiv 2511.05664). The history covers all masks of the answer and
    goes on from block to block; the first history − 1 steps of a block commit one token each, as in the authors' code."""

    settings: KlassSchedule
    reads = True

    def reads_at(self, m: Moment, open_BG: Tensor) -> Tensor:
        return m.all_masked_BG & open_BG.any(-1, keepdim=True)

    def read(self, raw_NV: Tensor) -> Tensor:
        """All of it."""
        return raw_NV

    def observe(self, ranked: Ranked, m: Moment) -> None:
        B, G = ranked.read_BG.shape
        if "klass" not in m.memory:
            shape = (B, G, ranked.read_N.shape[-1])
            m.memory["klass"] = torch.full(shape, torch.nan, device=ranked.read_N.device)
            m.memory["klass_calm"] = torch.zeros((B, G), dtype=torch.int64, device=ranked.read_N.device)
        log_p_NV, before_NV = ranked.read_N, m.memory["klass"][ranked.read_BG].double()
        kl_N = (log_p_NV.exp() * (log_p_NV - before_NV)).nansum(-1).where(~before_NV[:, 0].isnan(), math.inf)
        calm_N = m.memory["klass_calm"][ranked.read_BG]
        m.memory["klass_calm"][ranked.read_BG] = torch.where(kl_N < self.settings.kl, calm_N + 1, 0)
        m.memory["klass"][ranked.read_BG] = log_p_NV.float()

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        sure_BG = ranked.log_p_BG >= math.log(self.settings.threshold)
        calm_BG = m.memory["klass_calm"] >= self.settings.history
        stable_BG = sure_BG & calm_BG & ranked.open_BG & (m.index >= self.settings.history - 1)
        return torch.where(stable_BG.any(-1, keepdim=True), stable_BG, one(ranked.score_BG))


class Prophet(Schedule):
    """The base schedule until the mean gap between the two highest logits of the answer region, masked or not, reaches a
    threshold that falls with progress through the steps of all blocks; then every mask of the answer is filled (Prophet,
    arXiv 2508.19982)."""

    settings: ProphetSchedule
    reads = True

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self.all_steps = sampler.blocks * self.steps
        start, length = self.settings.answer_start, self.settings.answer_length
        self.region = slice(start, None if length is None else start + length)

    def region_like(self, position_BG: Tensor) -> Tensor:
        """The answer region as a mask (B, G)."""
        region_BG = torch.zeros_like(position_BG)
        region_BG[:, self.region] = True
        return region_BG

    def reads_at(self, m: Moment, open_BG: Tensor) -> Tensor:
        return (m.all_masked_BG | self.region_like(open_BG)) & open_BG.any(-1, keepdim=True)

    def read(self, raw_NV: Tensor) -> Tensor:
        """The gap between the two likeliest tokens' logits."""
        top_N2 = raw_NV.topk(2, dim=-1).values
        return top_N2[:, 0] - top_N2[:, 1]

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        s, progress = self.settings, (m.step + 1) / self.all_steps
        needed = s.early if progress < 0.33 else s.middle if progress < 0.67 else s.late
        region_BG = self.region_like(ranked.read_BG) & ranked.read_BG
        gap_BG = ranked.spread(ranked.read_N, 0.0)
        mean_B = (gap_BG * region_BG).sum(-1) / region_BG.sum(-1).clamp(min=1)
        everything_BG = m.all_masked_BG & ranked.read_BG
        return torch.where((mean_B >= needed)[:, None], everything_BG, super().choose(ranked, m))


def dream_times(steps: int, eps: float) -> list[float]:
    """t from 1 down to eps in `steps` equal parts."""
    return torch.linspace(1, eps, steps + 1, dtype=torch.float64).tolist()


class Dream(Schedule):
    """Dream's: at t → s, int(m(1 − s/t)) of the row's own m masked positions by score, at the last step all of them.
    origin: each of them with probability 1 − s/t instead. Steps that would commit nothing make no pass."""

    settings: DreamSchedule

    def share(self, m: Moment) -> float:
        times = dream_times(self.steps, self.settings.eps)
        return 1.0 if m.index == self.steps - 1 else 1 - times[m.index + 1] / times[m.index]

    def count(self, m: Moment) -> Tensor:
        return (m.masked_BG.sum(-1) * self.share(m)).long()

    def candidates(self, m: Moment) -> Tensor:
        if self.settings.origin:
            return m.masked_BG & (m.chance(RANDOM) < self.share(m))
        return super().candidates(m)

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        return ranked.open_BG if self.settings.origin else super().choose(ranked, m)


def remdm_alpha(t: float, settings: RemdmSchedule) -> float:
    """The share of tokens that are not masked at time t, from 0 at t = 1 to 1 at t = 0: 1 − t; with a loop it rises
    evenly to alpha_on at t_on, holds until t_off, and rises evenly to 1."""
    on, off, held = settings.t_on, settings.t_off, settings.alpha_on
    if on is None or off is None or held is None:
        return 1 - t
    if t > on:
        return (1 - t) * held / (1 - on)
    return held if t > off else 1 - t * (1 - held) / off


class Remdm(Schedule):
    """ReMDM (arXiv 2503.00307) from t to s = t − 1/steps: a masked position takes its proposed token with probability
    (α_s − (1 − σ)α_t) / (1 − α_t), a committed one is masked again with probability σ, where σ_max = min(1, (1 − α_s)/α_t)
    and σ = min(eta, σ_max) (cap), eta·σ_max (rescale), or σ_max·softmax(−ψ) over the committed positions (conf)."""

    settings: RemdmSchedule

    def rates(self, m: Moment) -> tuple[float, float, float]:
        """α_t, α_s and σ, that of `conf` before the softmax."""
        s = self.settings
        now, then = 1 - m.index / self.steps, 1 - (m.index + 1) / self.steps
        a_t, a_s = remdm_alpha(now, s), remdm_alpha(max(then, 0.0), s)
        most = min(1.0, (1 - a_s) / a_t) if a_t > 0 else 1.0
        if s.t_on is not None and s.t_off is not None and not s.t_off < now <= s.t_on:
            most = 0.0
        return a_t, a_s, {"cap": min(s.eta, most), "rescale": s.eta * most, "conf": most}[s.sigma]

    def candidates(self, m: Moment) -> Tensor:
        a_t, a_s, sigma = self.rates(m)
        if m.index == self.steps - 1:
            return m.masked_BG
        if self.settings.sigma == "conf":
            sigma = 0.0  # masked positions have ψ = ∞
        return m.masked_BG & (m.chance(RANDOM) < (a_s - (1 - sigma) * a_t) / (1 - a_t))

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        return ranked.open_BG

    def after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, m: Moment) -> Tensor | None:
        sigma = self.rates(m)[2]
        if sigma == 0 or m.index == self.steps - 1:
            return None
        if self.settings.sigma == "conf":
            weight_BG = (-m.psi_BG).masked_fill(~m.committed_BG, -torch.inf).softmax(-1).nan_to_num(0.0)
            return m.committed_BG & (m.chance(REMASK) < sigma * weight_BG)
        return m.committed_BG & (m.chance(REMASK) < sigma)


class Refine(Schedule):
    """ReMDM for LLaDA (arXiv 2503.00307): the base schedule until a share `fill` stands; then `rounds` steps that mask
    the `remask` tokens of lowest ψ again and commit as many; then the rest of the base schedule."""

    settings: RefineSchedule

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self.base, length = self.steps, sampler.block_length
        self.steps += self.settings.rounds
        plan = commits_per_step(length, self.base)
        self.turn = next(n for n in range(self.base + 1) if sum(plan[:n]) >= self.settings.fill * length)
        """The first step of refining."""

    def refining(self, m: Moment) -> bool:
        return self.turn <= m.index < self.turn + self.settings.rounds

    def count(self, m: Moment) -> Tensor:
        if self.refining(m):
            return torch.full_like(m.started_B, self.settings.remask)
        index = m.index if m.index < self.turn else m.index - self.settings.rounds
        return m.started_B // self.base + (index < m.started_B % self.base)

    def before(self, m: Moment) -> Tensor | None:
        if not self.refining(m):
            return None
        score_BG = (-m.psi_BG).masked_fill(~m.committed_BG, -torch.inf)
        return best(score_BG, torch.full_like(m.started_B, self.settings.remask))


class Wino(Adaptive):
    """WINO (arXiv 2507.18578): commit every token with probability > threshold, at least the best one, at most
    min(max(⌊share·masked⌋, least), most); where that is more than one, mask tokens of the block again whose probability,
    from a shadow of the block that is blind to them, is < verify. Fewer than the step before committed, lowest first, so
    that a block ends."""

    settings: WinoSchedule
    shadow = True

    def most(self, m: Moment) -> Tensor:
        """The most that each row commits, (B,)."""
        s, masked_B = self.settings, m.masked_BG.sum(-1)
        most_B = masked_B if s.share is None else (masked_B * s.share).long().clamp(min=s.least)
        return most_B if s.most is None else most_B.clamp(max=s.most)

    def choose(self, ranked: Ranked, m: Moment) -> Tensor:
        sure_BG = ranked.log_p_BG > math.log(self.settings.threshold)
        return best(ranked.log_p_BG, sure_BG.sum(-1).minimum(self.most(m)).clamp(min=1))

    def after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, m: Moment) -> Tensor | None:
        if shadow_BG is None:  # nothing was open
            return None
        chosen_B = chosen_BG.sum(-1)
        before_B = m.memory.get("wino", chosen_B)  # in a block's first step nothing stands that could be doubted
        m.memory["wino"] = chosen_B
        doubtful_BG = m.committed_BG & (shadow_BG < self.settings.verify)
        allowed_B = torch.minimum(doubtful_BG.sum(-1), before_B - 1) * (chosen_B > 1)
        return best((-shadow_BG).masked_fill(~doubtful_BG, -torch.inf), allowed_B.clamp(min=0))


SCHEDULES: dict[str, type[Schedule]] = {
    "fixed": Schedule,
    "threshold": Threshold,
    "factor": Factor,
    "eb": EntropyBound,
    "klass": Klass,
    "prophet": Prophet,
    "dream": Dream,
    "remdm": Remdm,
    "refine": Refine,
    "wino": Wino,
}


def schedule_of(sampler: Sampler) -> Schedule:
    """The schedule that a sampler names: one of these, or that of a file of its own."""
    kind = sampler.schedule.kind
    return SCHEDULES[kind](sampler) if kind in SCHEDULES else says("schedule", kind, "make", None)(sampler)
