"""No reward at all"""

from rws_cli.part import part
from rws_cli.rewards.base import Reward


@part
class NoReward(Reward):
    scores = False
    can_be_component = False
