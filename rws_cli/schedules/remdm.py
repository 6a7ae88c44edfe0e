"""Tokens are committed and remasked at random, with the marginals of plain diffusion (ReMDM, 2503.00307)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import RANDOM, REMASK
from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule


@part
class Remdm(Schedule):
    """From t to s = t − 1/steps a masked position takes its proposed token with probability (α_s − (1 − σ)α_t) / (1 − α_t),
    a committed one is masked again with probability σ, where σ_max = min(1, (1 − α_s)/α_t) and σ = min(eta, σ_max) (cap),
    eta·σ_max (rescale), or σ_max·softmax(−ψ) over the committed positions (conf), ψ being a token's probability when it was
    committed.

    With t_on, t_off and alpha_on, tokens are remasked only between t_on and t_off, while α stays constant; if all three
    are null, they are always remasked and α never stays constant."""

    sigma: str = setting(
        "how the probability of remasking follows from eta and σ_max",
        "cap",
        choices=("cap", "rescale", "conf"),
    )
    eta: float = setting("η: its upper limit (cap), or its share of σ_max (rescale)", 0.04, min=0.0, max=1.0)
    t_on: float | None = setting(
        "time, from 1 down to 0, at which remasking starts and α stays constant; null: always, α never constant",
        None,
        above=0.0,
        max=1.0,
    )
    t_off: float | None = setting("time at which that ends; null with t_on", None, above=0.0, max=1.0)
    alpha_on: float | None = setting(
        "α in between, the share of committed tokens; null with t_on", None, above=0.0, max=1.0
    )

    draws = True
    remasks = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        on, off, held = self.t_on, self.t_off, self.alpha_on
        if (on is None) != (off is None) or (on is not None and off is not None and off >= on):
            yield (
                f"sampler.schedule.t_on={on} and t_off={off} must both be null, or t_off the smaller: time runs from 1 to 0."
            )
        if (on is None) != (held is None) or on == 1:
            yield (
                f"sampler.schedule.t_on={on} and alpha_on={held} must both be null, or alpha_on set and t_on below 1."
            )

    def alpha(self, t_B: Tensor) -> Tensor:
        """The share of tokens that are not masked at time t, from 0 at t = 1 to 1 at t = 0: 1 − t; with a loop it rises
        linearly to alpha_on at t_on, is constant until t_off, and rises linearly to 1."""
        on, off, held = self.t_on, self.t_off, self.alpha_on
        if on is None or off is None or held is None:
            return 1 - t_B
        return torch.where(
            t_B > on, (1 - t_B) * held / (1 - on), torch.where(t_B > off, held, 1 - t_B * (1 - held) / off)
        )

    def rates(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """α_t, α_s and σ of each row (B, 1), the σ of `conf` before the softmax."""
        index_B1 = step.index_B.double()[:, None]
        now, then = 1 - index_B1 / self.steps, 1 - (index_B1 + 1) / self.steps
        a_t, a_s = self.alpha(now), self.alpha(then.clamp(min=0.0))
        most = torch.where(a_t > 0, ((1 - a_s) / a_t).clamp(max=1.0), 1.0)
        if self.t_on is not None and self.t_off is not None:
            most = most.masked_fill((now <= self.t_off) | (now > self.t_on), 0.0)
        return a_t, a_s, {"cap": most.clamp(max=self.eta), "rescale": self.eta * most, "conf": most}[self.sigma]

    def candidates(self, step: Step) -> Tensor:
        a_t, a_s, sigma = self.rates(step)
        if self.sigma == "conf":
            sigma = torch.zeros_like(sigma)  # masked positions have ψ = ∞
        is_last = (step.index_B == self.steps - 1)[:, None]
        return step.masked_BG & (is_last | (step.chance(RANDOM) < (a_s - (1 - sigma) * a_t) / (1 - a_t)))

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return ranking.open_BG

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        sigma = self.rates(step)[2]
        if self.sigma == "conf":
            weight_BG = (-step.commit_p_BG).masked_fill(~step.committed_BG, -torch.inf).softmax(-1).nan_to_num(0.0)
            sigma = sigma * weight_BG
        again_BG = step.committed_BG & (step.chance(REMASK) < sigma)
        return again_BG & (step.index_B < self.steps - 1)[:, None]
