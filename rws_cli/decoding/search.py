"""Search: several answers to one prompt (particles) are decoded side by side, weighed, copied, and one is returned.

All methods are one machine with different settings. Best-of-N weighs nothing until the end. Self-Rewarding SMC (arXiv
2602.01849) weighs by the probability of what was committed and resamples at block ends. FK steering (arXiv
2501.06848) weighs by what a reward says of the text so far, masks filled, and resamples every few steps; its target is
p(x)·exp(r(x)/β). Particle Gibbs (PG-DLM, arXiv 2507.08390) repeats that, the first particle following the answer of the
sweep before.

A reward of unfinished text is r̂(x_t) = log mean_j exp(r(x0^j)/β) over completions x0^j. They are filled in from the
logits of the step that follows, so one pass of the model serves both, where the paper counts two.

Rows of one prompt are neighbors; row n of a prompt is its particle n mod particles, and particle 0 draws the random
numbers of a run without search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rws_cli.config.schema import BestOfN, FkSteering, NoSearch, ParticleGibbs, Sampler, SelfRewardingSmc
from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import fill
from rws_cli.decoding.loop import decode
from rws_cli.decoding.noise import mix, uniform
from rws_cli.decoding.protocols import Denoiser, Scorer
from rws_cli.decoding.record import LAST, Cost, RowTrace, charge

SWEEP, RESAMPLE, COMPLETION = 1 << 40, 1 << 41, 1 << 42
"""What is added to keys for random numbers of a later sweep, of resampling, and of a further completion."""


@dataclass(frozen=True)
class Found:
    """What a search returns: by prompt the row whose answer was chosen, its trace, and the final score of each particle
    (its reward, or Σ log p for SMC; empty without a search)."""

    rows: list[int]
    traces: list[RowTrace]
    scores: list[list[float]]


def search(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    scorer: Scorer | None = None,
    costs: list[Cost] | None = None,
    **rest: Any,
) -> Found:
    """Decode a canvas that holds sampler.particles rows for each prompt; arguments, and the rest of them, are decode's."""
    settings, count = sampler.search, len(canvas.tokens_BL)
    if isinstance(settings, NoSearch):
        traces = decode(denoiser, canvas, sampler, scorer, costs, **rest)
        return Found(list(range(count)), traces, [[] for _ in range(count)])
    costs = [Cost() for _ in range(count)] if costs is None else costs
    followed: list[RowTrace] = []
    keys_B = canvas.key_B
    for sweep in range(settings.sweeps if isinstance(settings, ParticleGibbs) else 1):
        canvas.response_BG.fill_(canvas.mask_id)
        canvas.key_B = keys_B if sweep == 0 else mix(keys_B + sweep * SWEEP)
        swarm = Swarm(settings, canvas, scorer, followed)
        traces = decode(denoiser, canvas, sampler, scorer, costs, particles=swarm, **rest)
        with charge(costs, list(range(count)), "seconds"):
            rows, scores = swarm.end()
        followed = [traces[row].until(LAST) for row in rows]
    canvas.key_B = keys_B
    return Found(rows, followed, scores)


class Swarm:
    """The particles of a batch. followed: by prompt the trace that its first particle follows, if any.

    log_w_B: log-weights since the last resampling. path_B: Σ log p of all commits. most_B, sum_B: the highest reward so
    far and the sum of all; spent_B: the sum of log-potentials, which the end takes back.
    """

    def __init__(self, settings: Any, canvas: Canvas, scorer: Scorer | None, followed: list[RowTrace]) -> None:
        self.settings, self.canvas, self.scorer, self.followed = settings, canvas, scorer, followed
        self.size = settings.particles
        zeros = torch.zeros(len(canvas.tokens_BL), dtype=torch.float64, device=canvas.tokens_BL.device)
        self.log_w_B, self.path_B, self.sum_B, self.spent_B = (zeros.clone() for _ in range(4))
        self.most_B = zeros - torch.inf

    # --- what the loop calls --------------------------------------------------------------------------------------

    @property
    def reads_all(self) -> bool:
        return isinstance(self.settings, FkSteering)

    def weigh(self, canvas: Canvas, active_B: Tensor, logits_NV: Tensor, wanted_BG: Tensor, step: int) -> Tensor | None:
        """Before a step commits: weigh every particle of the prompts that are not finished by its reward so far, and
        resample. Returns each row's ancestor, None where this step weighs nothing."""
        s = self.settings
        if not isinstance(s, FkSteering) or step == 0 or step % s.every:
            return None
        busy_B = self.groups(active_B).any(1).repeat_interleave(self.size)
        if not busy_B.any():
            return None
        reward_B = self.estimate(canvas, busy_B, logits_NV, wanted_BG, step)
        self.most_B = torch.where(busy_B, torch.maximum(self.most_B, reward_B), self.most_B)
        self.sum_B = self.sum_B + reward_B
        # The sum of potentials that are differences is the last reward itself.
        potentials = {"difference": reward_B - self.spent_B, "max": self.most_B, "sum": self.sum_B}
        log_g_B = potentials[s.potential].where(busy_B, 0.0)
        self.spent_B = self.spent_B + log_g_B
        self.log_w_B = self.log_w_B + log_g_B
        return self.resample(busy_B, step)

    def committed(self, canvas: Canvas, traces: list[RowTrace], log_p_B: Tensor, step: int) -> None:
        """After a step committed: count its probability; put followed particles where their trace is."""
        self.path_B = self.path_B + log_p_B
        if isinstance(self.settings, SelfRewardingSmc):
            self.log_w_B = self.log_w_B + log_p_B
        for group, trace in enumerate(self.followed):
            row, prefix = group * self.size, trace.until(step)
            response_G = canvas.response_BG[row]
            response_G.fill_(canvas.mask_id)
            response_G[prefix.position] = torch.tensor(prefix.token, device=response_G.device)
            traces[row] = prefix

    def block_ended(self, step: int) -> Tensor | None:
        """SMC: resample the prompts whose effective sample size has fallen below its share."""
        if not isinstance(self.settings, SelfRewardingSmc):
            return None
        weights = self.groups(self.log_w_B).softmax(-1)
        few = 1 / (weights**2).sum(-1) < self.settings.ess * self.size
        return self.resample(few.repeat_interleave(self.size), step) if bool(few.any()) else None

    # --- inside ---------------------------------------------------------------------------------------------------

    def groups(self, value_B: Tensor) -> Tensor:
        return value_B.view(-1, self.size)

    def estimate(self, canvas: Canvas, busy_B: Tensor, logits_NV: Tensor, wanted_BG: Tensor, step: int) -> Tensor:
        """r̂ of the busy rows, 0 of the others."""
        assert self.scorer is not None
        s, rows = self.settings, busy_B.nonzero()[:, 0].tolist()
        row_N, position_N = wanted_BG.nonzero().unbind(1)
        filled_B = 1 - canvas.masked_BG.double().mean(1)
        found = []
        for number in range(s.completions):
            shown_BG = canvas.response_BG.clone()
            key_N = canvas.key_B[row_N] if number == 0 else mix(canvas.key_B[row_N] + number * COMPLETION)
            shown_BG[wanted_BG] = fill(logits_NV, s.fill, canvas.mask_id, key_N, step, position_N)
            found.append(self.scorer(rows, shown_BG[rows], filled_B[rows].tolist(), step))
        mean_N = torch.tensor(found, dtype=torch.float64).div(s.beta).logsumexp(0) - math.log(s.completions)
        reward_B = torch.zeros_like(self.log_w_B)
        reward_B[rows] = mean_N.to(reward_B.device)
        return reward_B

    def resample(self, which_B: Tensor, step: int) -> Tensor:
        """Multinomial resampling of some prompts' particles; the first stays where it follows a trace. Each row's
        ancestor (B,)."""
        ancestor_B = torch.arange(len(which_B), device=which_B.device)
        drawn = self.draw(self.size, step)
        first = torch.arange(0, len(which_B), self.size, device=which_B.device)
        drawn_B = (first[:, None] + drawn).flatten()
        if self.followed:
            drawn_B[first] = first
        ancestor_B = torch.where(which_B, drawn_B, ancestor_B)
        self.log_w_B = self.log_w_B.where(~which_B, 0.0)
        for name in ("path_B", "most_B", "sum_B", "spent_B"):
            setattr(self, name, getattr(self, name)[ancestor_B])
        return ancestor_B

    def draw(self, count: int, step: int) -> Tensor:
        """`count` particles (groups, count) of each prompt, by weight."""
        cumulative = self.groups(self.log_w_B).softmax(-1).cumsum(-1)
        key = mix(self.groups(self.canvas.key_B)[:, 0] + RESAMPLE)
        u = uniform(key, step, torch.zeros_like(key), count)
        return torch.searchsorted(cumulative, u).clamp(max=self.size - 1)

    def end(self) -> tuple[list[int], list[list[float]]]:
        """The chosen row of each prompt, and the final score of each particle."""
        s = self.settings
        if isinstance(s, SelfRewardingSmc):
            score_B = self.path_B
        else:
            assert self.scorer is not None
            everyone = list(range(len(self.log_w_B)))
            rewards = self.scorer(everyone, self.canvas.response_BG, [1.0] * len(everyone), -1)
            score_B = torch.tensor(rewards, dtype=torch.float64, device=self.log_w_B.device)
            if isinstance(s, FkSteering):
                self.log_w_B = self.log_w_B + score_B / s.beta - self.spent_B
        scores = self.groups(score_B)
        chosen = scores.argmax(-1) if isinstance(s, BestOfN) or s.ending == "best" else self.draw(1, LAST)[:, 0]
        first = torch.arange(0, len(score_B), self.size, device=score_B.device)
        return (first + chosen).tolist(), scores.tolist()
