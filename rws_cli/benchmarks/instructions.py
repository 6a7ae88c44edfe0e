"""Open-ended instructions, for win rates."""

from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.models.canvas import Piece, read_canvas
from rws_cli.part import part


def pieces(value: Any) -> tuple[Piece, ...]:
    return read_canvas(fields.text(value))


@part
class Instructions(DataBenchmark):
    """Not graded; compare runs with rws judge. A row may have a canvas: its completion, [MASK:12] where twelve tokens are
    missing."""

    open_ended = True
    needed = {"instruction|prompt": fields.text}
    optional = {"canvas": pieces}

    def canvas(self, row: Row) -> tuple[Piece, ...]:
        return row.get("canvas", ())

    def names(self, row: Row) -> dict[str, Any]:
        return {"prompt": row["instruction"]}
