"""Every token above a threshold; those that fail a check by a shadow of the block are masked again (WINO, 2507.18578)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, best


@part
class Wino(Adaptive):
    """Commits every token with probability > threshold, at least the best one and at most min(max(⌊share·masked⌋, least),
    most). If that is more than one, tokens of the block are masked again whose probability, predicted by a shadow of the
    block that does not see them, is < verify: lowest first, and fewer than the last step committed, so that a block ends."""

    threshold: float = setting("probability above which a token is committed", 0.6, above=0.0, max=1.0)
    verify: float = setting(
        "the shadow's probability below which a committed token is masked again", 0.9, min=0.0, max=1.0
    )
    most: int | None = setting("the most tokens that a step commits; null: no limit", 20, min=1)
    share: float | None = setting(
        "the largest share of a block's masks that a step commits; null: no limit", 0.7, above=0.0, max=1.0
    )
    least: int = setting("the fewest tokens that `share` allows", 5, min=1)

    shadow = True
    not_drafted = "its passes also read a shadow of the block"
    remasks = True
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        if why := config.model.without_shadows:
            yield f"sampler.schedule.kind={self.kind} does not fit model.kind={config.model.kind}, whose {why}."
        if config.sampler.cfg_scale > 0 or config.model.attention == "flash_attention_2":
            yield (
                f"sampler.schedule.kind={self.kind} predicts a block twice in one pass, which works neither with "
                "sampler.cfg_scale nor with model.attention=flash_attention_2."
            )

    def most_B(self, step: Step) -> Tensor:
        """The most tokens that each row commits, (B,)."""
        masked_B = step.masked_BG.sum(-1)
        most_B = masked_B if self.share is None else (masked_B * self.share).long().clamp(min=self.least)
        return most_B if self.most is None else most_B.clamp(max=self.most)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        sure_BG = ranking.log_p_BG > math.log(self.threshold)
        return best(ranking.log_p_BG, sure_BG.sum(-1).minimum(self.most_B(step)).clamp(min=1))

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        if shadow_BG is None:  # no position was open
            return None
        chosen_B = chosen_BG.sum(-1)
        # A block's first step has no committed tokens to check, so the count of the last block does no harm.
        last_B = step.memory.get("committed", 0, dtype=torch.int64)
        allowed_B, acted_B = last_B - 1, chosen_B > 0
        last_B.copy_(torch.where(acted_B, chosen_B, last_B))
        doubtful_BG = step.committed_BG & (shadow_BG < self.verify)
        allowed_B = torch.minimum(doubtful_BG.sum(-1), allowed_B) * (chosen_B > 1)
        return best((-shadow_BG).masked_fill(~doubtful_BG, -torch.inf), allowed_B.clamp(min=0))
