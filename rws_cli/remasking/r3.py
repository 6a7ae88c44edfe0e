"""Finished blocks with a low reward are masked again in part (R3, 2507.08018)

The paper masks blocks again in proportion to how low they score. The map from score to share, and the choice of tokens,
are ours.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli import registry
from rws_cli.decoding.noise import everywhere
from rws_cli.decoding.prediction import ORDER, PURPOSES, REMASK
from rws_cli.decoding.statistics import normalize
from rws_cli.decoding.step import Step, share
from rws_cli.part import part, setting
from rws_cli.remasking.base import Remasking
from rws_cli.schedules.base import best


@part
class R3(Remasking):
    """A block's score r is the reward of the text up to the block's end, as the logistic function of its z-score. If
    r < threshold, round((1 − r)·length) of its tokens are masked again: those with the lowest probability when they were
    committed (`confidence`), or random ones (`random`)."""

    threshold: float = setting(
        "normalized reward below which some of a block's tokens are masked again", 0.5, above=0.0, max=1.0
    )
    rounds: int = setting("the most reviews of a block", 1, min=1)
    window: int = setting("blocks reviewed each time, the newest included", 1, min=1)
    choose: str = setting(
        "the tokens that are masked again: the least confident, or random ones",
        "confidence",
        choices=("confidence", "random"),
    )

    needs = ("reward", "statistics")
    remasks = True
    caches = ()

    @property
    def draws(self) -> bool:
        return self.choose == "random"

    def conflicts(self, config: Any) -> Iterator[str]:
        if not config.sampler.schedule.refills:
            able = [name for name, source in registry.available("schedule").items() if source.facts.get("refills")]
            yield (
                f"sampler.remasking.kind={self.kind} decodes remasked tokens with sampler.schedule.kind={' or '.join(able)}, "
                f"not {config.sampler.schedule.kind}."
            )

    def again(self, step: Step, rows_B: Tensor, number_B: Tensor) -> Tensor:
        again_BG, length = torch.zeros_like(step.free_BG), step.free_BG.shape[1]
        keep_BG = step.commit_p_BG
        if self.choose == "random":
            keep_BG = everywhere(step.key_B, number_B * PURPOSES + ORDER, length, REMASK)
        for back in reversed(range(self.window)):
            reviewed_B = step.block_B - back
            here_BG = (step.block_BG == reviewed_B[:, None]) & step.free_BG
            later_BG = (step.block_BG > reviewed_B[:, None]) & step.free_BG
            text_BG = step.tokens_BG.masked_fill(later_BG, step.mask_id)
            progress_B = share(step.block_BG <= reviewed_B[:, None], step.free_BG)
            scores = step.score(text_BG, rows_B & (reviewed_B >= 0), progress_B, number_B)
            masked_share = torch.zeros(len(rows_B), dtype=torch.float64)
            for row, score in scores.items():
                r = normalize(score, "sigmoid", step.reward.statistics)
                masked_share[row] = 1 - r if r < self.threshold else 0.0
            count_B = (masked_share.to(rows_B.device) * here_BG.sum(-1)).round().long()
            again_BG |= best((-keep_BG).masked_fill(~here_BG, -torch.inf), count_B)
        return again_BG
