"""Equal shares of a block's tokens at each step, by score (LLaDA, 2502.09992)"""

from rws_cli.part import part
from rws_cli.schedules.base import Schedule


@part
class Fixed(Schedule):
    refills = True
    in_step = True
