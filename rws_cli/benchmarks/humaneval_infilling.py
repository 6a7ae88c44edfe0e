"""The missing lines of a function (HumanEval Infilling, arXiv 2207.14255), graded by running its tests in a sandbox."""

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.code import CodeBenchmark, function_name
from rws_cli.models.canvas import Piece
from rws_cli.part import part, setting


@part
class HumanEvalInfilling(CodeBenchmark):
    """Correct if the program on the canvas passes its tests: what stands before and after the gap, and what fills it."""

    version = 1
    needed = {
        "prompt": fields.text,
        "suffix": fields.text,
        "canonical_solution": fields.text,
        "test": fields.text,
        "entry_point": function_name,
    }

    masks: int | None = setting("masks in the gap; null: as many as the published solution has tokens", None, min=1)

    def reference(self, row: Row) -> str:
        return row["canonical_solution"]

    def canvas(self, row: Row) -> tuple[Piece, ...]:
        return row["prompt"], self.masks, row["suffix"]

    def program(self, row: Row, completion: str) -> str:
        """The completion is the whole canvas."""
        return f"{completion}\n{row['test']}\ncheck({row['entry_point']})\n"
