"""MT-Bench: open-ended conversations of several turns; each turn sees the completions before it (arXiv 2306.05685)."""

from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part


@part
class MtBench(DataBenchmark):
    """Not graded; compare runs with rws judge."""

    open_ended = True
    needed = {"turns|prompt": fields.some_texts}  # FastChat's field, or that of the data set on the Hub

    def names(self, row: Row) -> dict[str, Any]:
        return {"prompt": row["turns"][0]}

    def later_turns(self, row: Row) -> list[str]:
        return row["turns"][1:]
