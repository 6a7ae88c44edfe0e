"""One completion per prompt, no search"""

from rws_cli.part import part
from rws_cli.search.base import Search


@part
class NoSearch(Search):
    pass
