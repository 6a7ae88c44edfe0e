"""Every token above a probability threshold, and always the best one (Fast-dLLM, 2505.22618)"""

import math

from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Threshold(Adaptive):
    threshold: float = setting("lowest probability at which a token is committed", 0.9, above=0.0, max=1.0)

    refills = True

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return (ranking.log_p_BG >= math.log(self.threshold)) | one(ranking.score_BG)
