"""What benchmarks share that read a data set on the Hugging Face hub or a local file with the same fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Benchmark, Example, Row
from rws_cli.benchmarks.rows import Placed, file_rows, hub_rows, local_file
from rws_cli.errors import UsageError
from rws_cli.part import setting

REMOTE = "hf://"
"""A file on the Hugging Face hub, where no more than a file is there."""


@dataclass
class DataBenchmark(Benchmark):
    """Rows in the data's order, ids by their place in it.

    needed, optional: fields that a row must or may have, and their kinds (see fields.py); the methods get such rows.
    solved: whether each row has a right answer; where not, answers are graded without one.
    """

    needed: ClassVar[fields.Kinds] = {}
    optional: ClassVar[fields.Kinds] = {}
    solved = True

    hub: str | None = setting("the data set's name on the Hugging Face hub", None)
    subset: str | None = setting("its subset", None)
    split: str = setting("its split", "test")
    revision: str | None = setting("its branch, tag or commit; null: the newest", None)
    path: str | None = setting(
        "a .jsonl, .json, .csv or .parquet file with the same fields, instead of the hub's", None
    )
    limit: int | None = setting("the first so many rows; null: all", None, min=1, asks=False)
    shots: int = setting("solved examples before each question", 0, min=0)
    shots_split: str = setting("the split whose first rows they are", "train")
    shots_path: str | None = setting("a file whose first rows they are, instead of the split", None)
    template: str = setting("the prompt; {fields} in braces are the data set's, or the benchmark's own", "???")

    def names(self, row: Row) -> dict[str, Any]:
        """What the template may name: the row's fields, if the part does not say otherwise."""
        return row

    def reference(self, row: Row) -> str:
        """A right answer, as the model would write it; shots show it. "" where the row has none."""
        return ""

    def keywords(self, row: Row) -> list[str]:
        """Words that a good answer holds."""
        return []

    def later_turns(self, row: Row) -> list[str]:
        """What the user says after the first answer, turn by turn."""
        return []

    def examples(self) -> list[Example]:
        named, rows = self._rows(self.path, self.split, "benchmark.path")
        shots = self._solved() if self.shots else ""
        made = []
        for n, (place, row) in enumerate(rows[: self.limit]):
            row, prompt, reference = self._read(named, place, row)
            words = tuple(self.keywords(row))
            made.append(Example(f"{self.name}-{n}", shots + prompt, reference, row, words, place=place))
            for turn, prompt in enumerate(self.later_turns(row), start=2):
                made.append(Example(f"{self.name}-{n}.{turn}", prompt, "", row, follows=made[-1].id, place=place))
        return made

    def doubtful_references(self, examples: list[Example]) -> str | None:
        """Raises UsageError if all references are graded as wrong: their format is one that the benchmark does not know.
        Grades each reference, so it costs as much as to grade one answer to each row."""
        if self.open_ended:
            return None
        rows = {example.place: example for example in examples if not example.follows}
        wrong = [f"{place}: {e.reference[-60:]!r}" for place, e in rows.items() if not self._accepts(e)]
        if not wrong:
            return None
        named, listed = self._named(self.path, "benchmark.path"), "; ".join(wrong[:3])
        if len(wrong) == len(rows):
            raise UsageError(
                f"benchmark={self.name} grades every reference in {named} as wrong ({listed}): it does not know this format "
                "of answers."
            )
        return (
            f"warning: benchmark={self.name} grades {len(wrong)} of {len(rows)} references in {named} as wrong, and with "
            f"them any answer: {listed}"
        )

    def _accepts(self, example: Example) -> bool:
        if not example.reference and not self.solved:
            return True
        try:
            grade = self.grade(example, example.reference)
        except Exception:  # whatever a grader raises, it does not accept the reference
            return False
        return grade is None or grade.correct

    def _read(self, named: str, place: str, row: Row) -> tuple[Row, str, str]:
        """A row as the benchmark reads it, its prompt and its reference. Raises UsageError naming the row."""
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
                f"benchmark={self.name} cannot make a prompt: {error} is neither a field of its data "
                f"nor a name for benchmark.template (these are {', '.join(names)})."
            ) from error

    def _solved(self) -> str:
        """The solved examples that go before each question."""
        if self.path and not self.shots_path:
            raise UsageError("benchmark.shots needs solved examples: set benchmark.shots_path to a file of them.")
        named, rows = self._rows(self.shots_path, self.shots_split, "benchmark.shots_path")
        solved = [self._read(named, *placed) for placed in rows[: self.shots]]
        if not all(reference for _, _, reference in solved):
            raise UsageError(
                f"benchmark.shots needs solved examples, but not all of the first {self.shots} in {named} are."
            )
        return "".join(f"{prompt}\n{reference}\n\n" for _, prompt, reference in solved)

    def _named(self, path: str | None, key: str) -> str:
        """What messages call the data."""
        return f"benchmark.hub={self.hub}" if path is None else f"{key}={path}"

    def _rows(self, path: str | None, split: str, key: str) -> tuple[str, list[Placed]]:
        """What messages call the data, and the rows of a file, or of the hub's data set if `path` is None.

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
