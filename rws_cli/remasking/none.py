"""No remasking of finished blocks"""

from rws_cli.part import part
from rws_cli.remasking.base import Remasking


@part
class NoRemasking(Remasking):
    pass
