"""One answer to each prompt"""

from rws_cli.part import part
from rws_cli.search.base import Search


@part
class NoSearch(Search):
    pass
