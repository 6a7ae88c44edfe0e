"""Every token above the mean probability of commits so far; those whose confidence fell most are masked again (Saber, 2510.18165)"""

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, best


@part
class Saber(Adaptive):
    """Commits every token whose probability is above the mean probability of all tokens when they were last committed, at
    least the `least` best ones. Let n be the number of these, at least `least`. If masks remain, the tokens of the block are
    masked again whose position's highest probability grew least, or fell most, since the step before (from 0 at the first
    step of a block): as many as the larger of ⌊least / 2⌋ and ⌈n / ratio⌉, but at most n − 1."""

    least: int = setting("the fewest tokens that a step commits", 2, min=1)
    ratio: int = setting("committed tokens per token that is masked again", 8, min=1)

    remasks = True
    caches = ()

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return (step.masked_BG | step.committed_BG) & open_BG.any(-1, keepdim=True)

    def update(self, ranking: Ranking, step: Step) -> None:
        length = step.masked_BG.shape[1]
        last_BG, growth_BG = (step.memory.get(name, 0.0, length) for name in ("confidence", "growth"))
        p_BG = ranking.raw_BG.exp() * ranking.ranked_BG
        growth_BG.copy_(p_BG - last_BG.masked_fill((step.index_B == 0)[:, None], 0.0))
        last_BG.copy_(p_BG)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        was_committed_BG = step.commit_p_BG > 0
        # At first, the mean is 0 / 0, and no probability is above NaN.
        mean_B = (step.commit_p_BG * was_committed_BG).sum(-1) / was_committed_BG.sum(-1)
        sure_BG = ranking.open_BG & (ranking.log_p_BG.exp() > mean_B[:, None])
        least_B = torch.full_like(step.index_B, self.least)
        return torch.where(sure_BG.sum(-1, keepdim=True) >= self.least, sure_BG, best(ranking.score_BG, least_B))

    def remask_after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        growth_BG = step.memory.get("growth", 0.0, chosen_BG.shape[1])
        count_B = chosen_BG.sum(-1).clamp(min=self.least)
        again_B = (-(-count_B // self.ratio)).clamp(min=self.least // 2).minimum(count_B - 1)
        is_full_B = ~(step.masked_BG & ~chosen_BG).any(-1)
        again_B = again_B.masked_fill(is_full_B | ~chosen_BG.any(-1), 0)
        return best((-growth_BG).masked_fill(~(step.committed_BG | chosen_BG), -torch.inf), again_B)
