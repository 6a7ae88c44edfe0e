"""What every schedule answers. The loop asks, in this order, at every step: `before` (positions to mask again before the
model looks), `candidates` (what may be committed), `choose` (what is), `after` (positions to mask again once the step is
made), `ended` (whether the block is done). Tensors cover all rows of the batch, shape (B, G)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import Part


class Schedule(Part):
    """LLaDA's own (arXiv 2502.09992), and what the others share: of the m positions masked when the block began,
    floor(m / steps) a step and one more on the first (m mod steps) steps, by score."""

    role = "schedule"
    counted: ClassVar[bool] = True
    """Whether it reads sampler.steps and tokens_per_step; others take as many steps as they need."""
    adaptive: ClassVar[bool] = False
    """Whether it takes fewer steps where the model is sure."""
    shadow: ClassVar[bool] = False
    """Whether each step also asks the model about committed tokens, blind to themselves."""
    needs_all_log_probs: ClassVar[bool] = False
    """Whether `read` reads log-probabilities of all tokens."""
    refills: ClassVar[bool] = False
    """Whether it can decode positions of a block again that a remasking method masked."""
    family: ClassVar[str] = ""
    """What curves call samplers with it; "" for the family that follows from what it declares."""
    in_step: ClassVar[Any] = False
    """Whether rows of one prompt commit as many tokens at each step."""

    def prepare(self, sampler: Any) -> None:
        """Note what it needs of the sampler's settings. steps: the most that a block takes."""
        self.steps = sampler.steps_per_block

    def most_passes(self, sampler: Any) -> int:
        """Passes that a decoding takes, at most: of steps that would commit nothing none is made."""
        return sampler.blocks * self.steps

    def remask_before(self, step: Step) -> Tensor | None:
        """Positions to mask again before the step."""
        return None

    def count(self, step: Step) -> Tensor:
        """How many tokens each row commits, (B,)."""
        return step.started_B // self.steps + (step.index_B < step.started_B % self.steps)

    def candidates(self, step: Step) -> Tensor:
        """Positions that the step may commit; a row without any makes no pass and costs nothing."""
        return step.masked_BG & (self.count(step) > 0)[:, None]

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        """Positions whose predictions the rule reads: the candidates, at least. None of a row without candidates."""
        return open_BG

    def features(self, log_p_nV: Tensor) -> Tensor:
        """What the rule must know of the untempered log-probabilities of each position by itself, (n, …)."""
        return log_p_nV[:, :0]

    def update(self, ranking: Ranking, step: Step) -> None:
        """Keep in step.memory what a later choice needs."""

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        """What is committed, (B, G). Writes no memory: it is asked again about other scores."""
        return best(ranking.score_BG, self.count(step))

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        """Positions to mask again after the step; shadow_BG: probability of each committed token, blind to itself."""
        return None

    def ended(self, step: Step) -> Tensor:
        """Rows whose block is done, (B,); `step` is the one that would follow."""
        over_B = step.index_B >= self.steps
        return over_B if self.remasks else over_B | ~step.masked_BG.any(-1)


class Adaptive(Schedule):
    """As many as the model is sure of, at least one: a block takes at most as many steps as it has positions."""

    counted = False
    adaptive = True

    def prepare(self, sampler: Any) -> None:
        self.steps = sampler.block_length

    def candidates(self, step: Step) -> Tensor:
        return step.masked_BG

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)


def best(score_BG: Tensor, count_B: Tensor) -> Tensor:
    """The count_B highest scores of each row, as a mask (B, G); closed positions hold −inf and are never chosen.

    Ties go to the leftmost position, so that a choice never depends on a kernel's whim.
    """
    order_BG = score_BG.argsort(dim=-1, descending=True, stable=True)
    rank_BG = torch.empty_like(order_BG).scatter_(
        -1, order_BG, torch.arange(score_BG.shape[-1], device=score_BG.device).expand_as(order_BG)
    )
    return (rank_BG < count_B[:, None]) & (score_BG > -torch.inf)


def one(score_BG: Tensor) -> Tensor:
    """The best position of each row."""
    return best(score_BG, torch.ones(len(score_BG), dtype=torch.int64, device=score_BG.device))


def longest(passes_BG: Tensor) -> Tensor:
    """For each row the largest n of which passes[n − 1] is true, at least 1."""
    place_G = torch.arange(1, passes_BG.shape[-1] + 1, device=passes_BG.device)
    return (passes_BG * place_G).amax(-1).clamp(min=1)
