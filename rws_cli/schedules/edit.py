"""Every token above a threshold, and committed tokens replaced where the model is sure of another (LLaDA2.1, 2602.08676)"""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Edit(Adaptive):
    """Commits every token with probability > threshold, at least the best one. In the same step, each committed token of the
    block is replaced by the proposed one if that is another with probability > edit_threshold. Once no mask remains, the
    block ends when a step changes nothing, or after edit_steps more steps."""

    threshold: float = setting("probability above which a token is committed", 0.7, min=0.0, max=1.0)
    edit_threshold: float = setting("probability above which it replaces a committed token", 0.5, min=0.0, max=1.0)
    edit_steps: int = setting("the most steps of a block after its last mask", 16, min=0)

    edits = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        s = config.sampler
        named = f"sampler.schedule.kind={self.kind}"
        if s.remasking.kind != "none":
            yield f"{named} does not work with sampler.remasking.kind={s.remasking.kind}: it revises tokens itself."
        if s.eos == "stop":
            yield f"{named} may replace an end token until its block is done: set sampler.eos=stop_block."

    def prepare(self, sampler: Any) -> None:
        self.steps = sampler.block_length + self.edit_steps

    def candidates(self, step: Step) -> Tensor:
        return step.masked_BG | (step.committed_BG & ~step.masked_BG.any(-1, keepdim=True))

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return (step.masked_BG | step.committed_BG) & open_BG.any(-1, keepdim=True)

    def edited(self, ranking: Ranking, step: Step) -> Tensor:
        """The committed tokens (B, G) that the step replaces."""
        other_BG = step.committed_BG & ranking.ranked_BG & (ranking.token_BG != step.tokens_BG)
        return other_BG & (ranking.raw_BG > _log(self.edit_threshold))

    def update(self, ranking: Ranking, step: Step) -> None:
        after_B = ranking.ranked_BG.any(-1) & ~step.masked_BG.any(-1)
        settled_B, steps_B = step.memory.get("settled", 0), step.memory.get("edit_steps", 0)
        settled_B.copy_(after_B & ~self.edited(ranking, step).any(-1))
        steps_B.copy_((steps_B + 1) * after_B)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        score_BG = ranking.score_BG.masked_fill(~step.masked_BG, -math.inf)
        sure_BG = step.masked_BG & (ranking.log_p_BG > _log(self.threshold))
        return sure_BG | one(score_BG) | self.edited(ranking, step)

    def ended(self, step: Step) -> Tensor:
        settled_B, steps_B = step.memory.get("settled", 0), step.memory.get("edit_steps", 0)
        over_B = settled_B.bool() | (steps_B >= self.edit_steps) | ~step.committed_BG.any(-1)
        return ~step.masked_BG.any(-1) & over_B


def _log(p: float) -> float:
    return math.log(p) if p else -math.inf
