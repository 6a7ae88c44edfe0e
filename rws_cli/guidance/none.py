"""No guidance"""

from rws_cli.guidance.base import Guidance
from rws_cli.part import part


@part
class NoGuidance(Guidance):
    pass
