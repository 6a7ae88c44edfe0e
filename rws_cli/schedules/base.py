"""The base class of schedules.

At every step the loop calls, in this order: `remask_before` (positions to mask before the forward pass), `candidates`
(positions that may be committed), `choose` (those that are), `remask_after` (positions to mask after the step), `ended`
(whether the block is done). A schedule that looks ahead has `branch` (further canvases of each row) and, once these are
computed, `decide` in place of `choose`. Tensors (B, G) cover all rows of the batch.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.decoding.batch import Insertion
from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import Part


class Schedule(Part):
    """LLaDA's schedule (arXiv 2502.09992), from which others derive: of the m positions masked when the block began, a step
    commits floor(m / steps) by score, and one more in the first (m mod steps) steps."""

    role = "schedule"
    counted: ClassVar[bool] = True
    """Whether it uses sampler.steps and tokens_per_step; others take as many steps as they need."""
    adaptive: ClassVar[bool] = False
    """Whether it takes fewer steps where the model is confident."""
    shadow: ClassVar[bool] = False
    """Whether each step also predicts committed tokens without seeing them (a shadow of the block)."""
    attention_layers: ClassVar[Any] = 0
    """The layers, from the last, whose attention weights each step reads, by `attend`."""
    reads_from: ClassVar[Any] = None
    """The first position that every step reads, committed or not; None: a step reads open positions alone."""
    needs_all_log_probs: ClassVar[bool] = False
    """Whether `features` needs the log-probabilities of all tokens."""
    reads_unscaled: ClassVar[bool] = False
    """Whether it reads Ranking.unscaled_BG."""
    refills: ClassVar[bool] = False
    """Whether it can decode positions that a remasking method masked in a finished block."""
    edits: ClassVar[bool] = False
    """Whether it may replace committed tokens by others."""
    grows: ClassVar[bool] = False
    """Whether it puts masks into completions, by `insertion`."""
    lookahead: ClassVar[Any] = 0
    """The most further canvases of a row that a step computes, by `branch`."""
    reads_current: ClassVar[bool] = False
    """Whether it reads how probable a row's own tokens are on further canvases."""
    per_step = None  # type: int | None
    """Tokens per step that the sampler sets, None if it sets steps or neither."""
    first_steps = 0
    """The most steps before the first one that commits."""
    in_step: ClassVar[Any] = False
    """Whether all particles of a prompt commit the same number of tokens at each step."""

    def prepare(self, sampler: Any) -> None:
        """Read what it needs from the sampler's settings. Sets `steps`, the most steps of a block."""
        self.steps = sampler.steps_per_block
        self.per_step = None if sampler.steps else sampler.tokens_per_step

    def remask_before(self, step: Step) -> Tensor | None:
        """Positions (B, G) to mask again before the step, or None."""
        return None

    def steps_of(self, step: Step, most: int | None = None) -> Tensor:
        """The steps of each row's block, (B,): `most`, None for `steps`. With tokens_per_step, a block with fixed tokens takes
        fewer."""
        most = most or self.steps
        if not self.per_step:
            return torch.full_like(step.index_B, most)
        free_B = (step.masked_BG | step.committed_BG).sum(-1)
        return (-(-free_B // self.per_step)).clamp(1, most)

    def count(self, step: Step) -> Tensor:
        """The number of tokens that each row commits, (B,)."""
        return self.quota(step, self.steps)

    def quota(self, step: Step, steps: int) -> Tensor:
        """An equal share of each row's block for each of at most so many steps, (B,)."""
        steps_B = self.steps_of(step, steps)
        return step.started_B // steps_B + (step.index_B < step.started_B % steps_B)

    def steps_for(self, masks: int) -> int:
        """The most steps for a block with this many masks, if none is masked again."""
        per_step = self.per_step if type(self).count is Schedule.count else None
        return -(-masks // (per_step or 1))

    def extra_passes(self, steps: int) -> int:
        """The most passes of a block with so many steps beyond one per step. The logits of a further canvas that becomes the
        row's own are not computed again."""
        return steps if self.lookahead else 0

    def candidates(self, step: Step) -> Tensor:
        """Positions (B, G) that the step may commit. A row without candidates makes no pass and costs nothing."""
        return step.masked_BG & (self.count(step) > 0)[:, None]

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        """Positions (B, G) whose predictions the schedule needs: at least the candidates; none in rows without candidates."""
        return open_BG

    def attend(
        self, weights_RLL: Tensor, log_p_RL: Tensor, decoded_RL: Tensor, seen_RL: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        """What a step needs of the attention weights (R, query, key) of a pass: which positions depend on which others,
        (R, C, C), and which depend on tokens that stand for sure, (R, C); C columns from `start` on. They are put into
        step.memory as "attention.depends" and "attention.anchored". log_p_RL: of the likeliest token at each column;
        decoded_RL: columns that are no masks; seen_RL: False on padding."""
        raise NotImplementedError

    def adjust(self, logits_NV: Tensor, wanted_BG: Tensor, step: Step) -> Tensor:
        """The logits (N, V) of the wanted positions, as the schedule changes them before guidance. It must not write to them."""
        return logits_NV

    def features(self, log_p_nV: Tensor) -> Tensor:
        """Features (n, …) of n positions, each from its own untempered log-probabilities alone."""
        return log_p_nV.new_empty((len(log_p_nV), 0))  # a view would keep them all in memory

    def update(self, ranking: Ranking, step: Step) -> None:
        """Store in step.memory what later choices need."""

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        """Positions (B, G) to commit. It must not write memory: it is also called with the scores at scale 1."""
        return best(ranking.score_BG, self.count(step))

    def selected(self, ranking: Ranking, chosen_BG: Tensor, step: Step) -> Tensor:
        """The open positions (B, G) that were selected because of their scores, after `choose`; for near ties."""
        return chosen_BG & ranking.open_BG

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        """The further canvases that `decide` compares; for schedules with lookahead. It may write memory."""
        raise NotImplementedError

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, Tensor]:
        """In place of `choose`, after the canvases of `branch` were computed: the ranking with the tokens to commit, and the
        positions (B, G) to commit. It must not write memory."""
        raise NotImplementedError

    def insertion(self, ranking: Ranking, chosen_BG: Tensor, step: Step) -> Insertion:
        """What to put into completions after a step that committed chosen_BG; for schedules that grow. It may write memory."""
        raise NotImplementedError

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        """Positions (B, G) to mask again after the step, or None. shadow_BG: each committed token's probability as predicted
        without seeing it."""
        return None

    def ended(self, step: Step) -> Tensor:
        """Rows (B,) whose block is done. step: the state before the next step."""
        over_B = step.index_B >= self.steps
        return over_B if self.remasks else over_B | ~step.masked_BG.any(-1)


class Adaptive(Schedule):
    """Commits as many tokens as the model is confident of, at least one; a block takes at most one step per position."""

    counted = False
    adaptive = True

    def prepare(self, sampler: Any) -> None:
        self.steps = sampler.block_length

    def candidates(self, step: Step) -> Tensor:
        return step.masked_BG

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)


def best(score_BG: Tensor, count_B: Tensor) -> Tensor:
    """The count_B highest scores of each row, as a mask (B, G). Positions with −inf are never chosen.

    Ties go to the leftmost position, so that the choice does not depend on the kernel.
    """
    return (ranks(score_BG) < count_B[:, None]) & (score_BG > -torch.inf)


def ranks(score_BG: Tensor) -> Tensor:
    """The place of each position among the scores of its row, from 0 for the highest; equal ones from the left."""
    order_BG = score_BG.argsort(dim=-1, descending=True, stable=True)
    place_G = torch.arange(score_BG.shape[-1], device=score_BG.device)
    return torch.empty_like(order_BG).scatter_(-1, order_BG, place_G.expand_as(order_BG))


def one(score_BG: Tensor) -> Tensor:
    """The best position of each row."""
    return best(score_BG, torch.ones(len(score_BG), dtype=torch.int64, device=score_BG.device))


def longest(passes_BG: Tensor) -> Tensor:
    """For each row the largest n for which passes_BG[:, n − 1] is true, at least 1; (B,)."""
    place_G = torch.arange(1, passes_BG.shape[-1] + 1, device=passes_BG.device)
    return (passes_BG * place_G).amax(-1).clamp(min=1)
