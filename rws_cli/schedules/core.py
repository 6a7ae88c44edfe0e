"""Committed tokens are checked without seeing the doubtful ones, and the least fitting is replaced (CORE, 2602.04096)"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class Core(Schedule):
    """The base schedule. At every `every`-th step between `start` and `stop`, one more pass predicts the `checked` committed
    tokens of the block with the smallest margin p₁ − p₂, all of them masked; the last `protected` positions are left out. By
    the rule `core`, the tokens that are no longer the proposed ones, where the proposed one has probability ≥ `least`, are
    candidates, the least probable first; by `margin`, all of them, those with the smallest new margin first. The first `most`
    are replaced by the proposed ones, and no more than the step commits."""

    rule: str = setting(
        "replaced are tokens that the model would no longer choose (core), or those with the smallest margin (margin)",
        "core",
        choices=("core", "margin"),
    )
    every: int = setting("steps from one check to the next", 8, min=1)
    start: float = setting("share of a block's steps at which checks begin", 0.25, min=0.0, max=1.0)
    stop: float = setting("share of a block's steps at which they end", 0.75, min=0.0, max=1.0)
    checked: int = setting("committed tokens that a check masks", 32, min=1)
    protected: int = setting("last positions of a block that are never checked", 16, min=0)
    most: int = setting("the most tokens that a check replaces", 1, min=1)
    least: float = setting(
        "lowest probability of a token that replaces another, by the rule core", 0.3, min=0.0, max=1.0
    )

    edits = True
    lookahead = 1
    reads_current = True
    needs_all_log_probs = True
    caches = ()
    not_drafted = "some of its steps also check committed tokens"

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.start >= self.stop:
            yield f"sampler.schedule.start={self.start} must be less than sampler.schedule.stop={self.stop}: else no step checks."
        if config.sampler.eos == "stop":
            yield (
                f"sampler.schedule.kind={self.kind} may replace an end token until its block is done: set "
                "sampler.eos=stop_block."
            )

    def is_due(self, index: Any, steps: Any) -> Any:
        """Whether a step of a block checks tokens; for numbers and tensors."""
        first, last = ((torch.as_tensor(steps).double() * share).long() for share in (self.start, self.stop))
        return (index % self.every == 0) & (index >= first) & (index < last)

    def extra_passes(self, steps: int) -> int:
        indices = torch.arange(steps)  # a block with fixed tokens has fewer steps, and may have more checks
        return max(int(self.is_due(indices[:n], n).sum()) for n in range(1, steps + 1))

    def doubtful(self, step: Step) -> Tensor:
        """The committed tokens (B, G) that the step may check."""
        position_G = torch.arange(step.tokens_BG.shape[1], device=step.tokens_BG.device)
        block_BG = (step.block_BG == step.block_B[:, None]) & (position_G < step.length_B[:, None])
        from_end_BG = block_BG.flip(1).cumsum(1).flip(1)
        due_B = self.is_due(step.index_B, self.steps_of(step))
        return step.committed_BG & (from_end_BG > self.protected) & due_B[:, None]

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return open_BG | (self.doubtful(step) & open_BG.any(-1, keepdim=True))

    def features(self, log_p_nV: Tensor) -> Tensor:
        """p₁ − p₂."""
        top_n2 = log_p_nV.topk(2, dim=-1).values.exp()
        return top_n2[:, :1] - top_n2[:, 1:]

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        margin_BG = ranking.spread(ranking.features_N[:, 0], torch.inf)
        score_BG = (-margin_BG).masked_fill(~self.doubtful(step) | ~ranking.ranked_BG, -torch.inf)
        checked_BG = best(score_BG, torch.full_like(step.index_B, self.checked))
        return Branches(step.tokens_BG.masked_fill(checked_BG, step.mask_id)[:, None], checked_BG[:, None])

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, Tensor]:
        assert ahead.current_log_p_BKG is not None
        token_BG, log_p_BG, is_doubtful_BG = ahead.token_BKG[:, 0], ahead.log_p_BKG[:, 0], ahead.wanted_BKG[:, 0]
        is_other_BG = token_BG != step.tokens_BG
        if self.rule == "core":
            score_BG = -ahead.current_log_p_BKG[:, 0]
            is_doubtful_BG = is_doubtful_BG & is_other_BG & (log_p_BG.exp() >= self.least)
        else:
            score_BG = -ahead.features_BKGF[:, 0, :, 0]
        count_B = self.count(step)
        replaced_BG = (
            best(score_BG.masked_fill(~is_doubtful_BG, -torch.inf), count_B.clamp(max=self.most)) & is_other_BG
        )
        decided = replace(
            ranking,
            token_BG=torch.where(replaced_BG, token_BG, ranking.token_BG),
            raw_BG=torch.where(replaced_BG, log_p_BG, ranking.raw_BG),
        )
        return decided, best(ranking.score_BG, count_B) | replaced_BG
