"""Equal shares of a block's tokens at each step, by score (LLaDA, 2502.09992)"""

from typing import Any

from rws_cli.part import part
from rws_cli.schedules.base import Schedule


@part
class Fixed(Schedule):
    refills = True
    in_step = True

    def most_passes(self, sampler: Any) -> int:
        return min(super().most_passes(sampler), sampler.gen_length)
