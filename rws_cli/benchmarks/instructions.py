"""Open-ended instructions, for win rates."""

from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part


@part
class Instructions(DataBenchmark):
    """Not graded; compare runs with rws judge."""

    open_ended = True
    needed = {"instruction|prompt": fields.text}

    def names(self, row: Row) -> dict[str, Any]:
        return {"prompt": row["instruction"]}
