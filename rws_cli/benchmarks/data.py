"""Shared by benchmarks with a data set: on the Hugging Face Hub, or a local file with the same fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Benchmark, Example, Row
from rws_cli.benchmarks.rows import Placed, file_rows, hub_rows, local_file
from rws_cli.errors import UsageError
from rws_cli.models.canvas import Piece
from rws_cli.part import setting

REMOTE = "hf://"
"""Prefix of a single file on the Hugging Face Hub."""


@dataclass
class DataBenchmark(Benchmark):
    """A benchmark with a data set; ids are row numbers.

    needed, optional: the fields that a row must or may have → their kinds (see fields.py); methods receive such rows.
    solved: whether every row has a correct answer; if not, completions are graded without one. between: what stands between
    the prompt and the answer of a solved example.
    """

    needed: ClassVar[fields.Kinds] = {}
    optional: ClassVar[fields.Kinds] = {}
    solved = True
    between: ClassVar[str] = "\n"

    hub: str | None = setting("the data set's name on the Hugging Face Hub", None)
    subset: str | None = setting("the data set's subset", None)
    split: str = setting("the data set's split", "test")
    revision: str | None = setting("the data set's branch, tag or commit; null: the newest", None)
    path: str | None = setting(
        "a local .jsonl, .json, .csv, .parquet or .jsonl.gz file with the data set's fields, used instead of the Hub",
        None,
    )
    limit: int | None = setting("number of rows, from the first; null: all", None, min=1, asks=False)
    shots: int = setting("solved examples shown before each question", 0, min=0)
    shots_split: str = setting("the split whose first rows are the solved examples", "train")
    shots_path: str | None = setting(
        "a file whose first rows are the solved examples, used instead of shots_split", None
    )
    template: str = setting("the prompt; names in {braces} are fields of the data set, or the benchmark's own", "???")

    def names(self, row: Row) -> dict[str, Any]:
        """What the template may name: the row's fields by default."""
        return row

    def reference(self, row: Row) -> str:
        """A correct answer, in the form that the model should write it, as shown in shots; "" if the row has none."""
        return ""

    def keywords(self, row: Row) -> list[str]:
        """Words that a good completion contains."""
        return []

    def canvas(self, row: Row) -> tuple[Piece, ...]:
        """What stands on the canvas (Example.canvas)."""
        return ()

    def later_turns(self, row: Row) -> list[str]:
        """The user's turns after the first."""
        return []

    def examples(self) -> list[Example]:
        named, rows = self._rows(self.path, self.split, "benchmark.path")
        shots = self._solved() if self.shots else ""
        made = []
        for n, (place, row) in enumerate(rows[: self.limit]):
            row, prompt, reference = self._read(named, place, row)
            words = tuple(self.keywords(row))
            canvas = self.canvas(row)
            made.append(Example(f"{self.name}-{n}", shots + prompt, reference, row, words, place=place, canvas=canvas))
            for turn, prompt in enumerate(self.later_turns(row), start=2):
                made.append(Example(f"{self.name}-{n}.{turn}", prompt, "", row, follows=made[-1].id, place=place))
        return made

    def doubtful_references(self, examples: list[Example]) -> str | None:
        """Raises UsageError if all references are graded as wrong, because the benchmark does not know their format.

        Grades every reference, which costs as much as grading one completion per row.
        """
        if self.open_ended:
            return None
        rows = {example.place: example for example in examples if not example.follows}
        wrong = [f"{place}: {e.reference[-60:]!r}" for place, e in rows.items() if not self._accepts(e)]
        if not wrong:
            return None
        named, listed = self._named(self.path, "benchmark.path"), "; ".join(wrong[:3])
        if len(wrong) == len(rows):
            raise UsageError(
                f"benchmark={self.name} grades every reference in {named} as wrong ({listed}), so it does not know this format "
                "of answers: convert the data or choose another benchmark."
            )
        return (
            f"warning: benchmark={self.name} grades {len(wrong)} of {len(rows)} references in {named} as wrong, and hence every "
            f"completion of these rows: {listed}"
        )

    def _accepts(self, example: Example) -> bool:
        if not example.reference and not self.solved:
            return True
        try:
            grade = self.grade(example, example.reference)
        except Exception:  # whatever it raises, the grader does not accept the reference
            return False
        return grade is None or grade.correct

    def _read(self, named: str, place: str, row: Row) -> tuple[Row, str, str]:
        """A row with its fields converted, its prompt and its reference. Raises UsageError naming the row."""
        try:
            row = fields.read_fields(row, self.needed, self.optional)
            names, reference = self.names(row), self.reference(row)
        except ValueError as error:
            raise UsageError(f"{named}, {place} {error}.") from error
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"{named}, {place} cannot be used: {type(error).__name__}: {error}.") from error
        try:
            return row, self.template.format(**names), reference
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(
                f"benchmark={self.name} cannot make a prompt: {error} is not a name that "
                f"benchmark.template can use: choose from {', '.join(names)}."
            ) from error

    def _solved(self) -> str:
        """The solved examples shown before each question."""
        if self.path and not self.shots_path:
            raise UsageError("benchmark.shots needs solved examples: set benchmark.shots_path to a file of them.")
        named, rows = self._rows(self.shots_path, self.shots_split, "benchmark.shots_path")
        solved = [self._read(named, *placed) for placed in rows[: self.shots]]
        if not all(reference for _, _, reference in solved):
            raise UsageError(
                f"benchmark.shots needs solved examples, but not all of the first {self.shots} rows in {named} have an answer."
            )
        return "".join(f"{prompt}{self.between}{reference}\n\n" for _, prompt, reference in solved)

    def _named(self, path: str | None, key: str) -> str:
        """The data's name in messages."""
        return f"benchmark.hub={self.hub}" if path is None else f"{key}={path}"

    def _rows(self, path: str | None, split: str, key: str) -> tuple[str, list[Placed]]:
        """The data's name in messages, and its rows: of a file, or of the data set on the Hub if `path` is None.

        Raises UsageError if they cannot be read or there are none.
        """
        if path is None and self.hub is None:
            raise UsageError(f"benchmark={self.name} needs data: set benchmark.path=<file> or benchmark.hub=<name>.")
        named, advice = self._named(path, key), f" Offline, set {key} to a file with the same fields."
        if path is None:
            source = {"path": self.hub, "name": self.subset, "revision": self.revision, "split": split}
            placed = hub_rows(source, named, advice)
        elif path.startswith(REMOTE):
            reader = Path(path).suffix.removeprefix(".").replace("jsonl", "json")
            placed = hub_rows({"path": reader, "data_files": path, "split": "train"}, named, advice)
        else:
            placed = file_rows(local_file(path, key), named)
        if not (rows := list(placed)):
            raise UsageError(f"{named} has no rows.")
        return named, rows
