"""No judge: runs are compared, not judged"""

from rws_cli.judges.base import Judge
from rws_cli.part import part


@part
class NoJudge(Judge):
    """Does not judge."""

    judges = False
