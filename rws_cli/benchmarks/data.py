"""Benchmarks read from the Hugging Face hub or from a local file with the same fields. One `Task` each in TASKS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rws_cli.benchmarks import code, countdown, keywords, mathematics, sandbox, sudoku4
from rws_cli.benchmarks.base import Example, Mark, Row
from rws_cli.errors import UsageError
from rws_cli.schema import CodeBenchmark, DataBenchmark

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
REMOTE = "hf://"
"""A file on the Hugging Face hub, where no more than a file is there."""


@dataclass(frozen=True)
class Task:
    """How a data set becomes a benchmark.

    names: a row → what the prompt template may name. Raises KeyError for a missing field.
    reference: a row → a right answer, as the model would write it; shots show it.
    mark: a row, an answer and the settings → its mark; None where no answer is right or wrong.
    keywords: a row → words that a good answer holds.
    later_turns: a row → what the user says after the first answer, turn by turn.
    """

    names: Callable[[Row], dict[str, Any]]
    reference: Callable[[Row], str]
    mark: Callable[[Row, str, Any], Mark] | None
    keywords: Callable[[Row], list[str]] = lambda row: []
    later_turns: Callable[[Row], list[str]] = lambda row: []
    version: int = 1


def _turns(row: Row) -> list[str]:
    """FastChat's field, or the one of the set on the hub."""
    return row["turns"] if "turns" in row else row["prompt"]


TASKS = {
    "gsm8k": Task(
        lambda row: {"question": row["question"]},
        lambda row: row["answer"],
        lambda row, answer, _: mathematics.mark_gsm8k(row, answer),
    ),
    "math": Task(
        lambda row: {"problem": row["problem"]},
        lambda row: row["solution"],
        lambda row, answer, _: mathematics.mark_math(row, answer),
    ),
    "countdown": Task(
        countdown.names, lambda row: str(row["output"]), lambda row, answer, _: countdown.mark(row, answer)
    ),
    "sudoku4": Task(sudoku4.names, sudoku4.reference, lambda row, answer, _: sudoku4.mark(row, answer)),
    "keywords": Task(
        keywords.names, keywords.reference, lambda row, answer, _: keywords.mark(row, answer), keywords.words
    ),
    "humaneval": Task(
        code.humaneval_names,
        lambda row: row["prompt"] + row["canonical_solution"],
        lambda row, answer, settings: code.mark_program(code.humaneval_program(row, answer), settings),
    ),
    "mbpp": Task(
        code.mbpp_names,
        lambda row: row["code"],
        lambda row, answer, settings: code.mark_program(code.mbpp_program(row, answer), settings),
    ),
    "mt_bench": Task(
        lambda row: {"prompt": _turns(row)[0]}, lambda row: "", None, later_turns=lambda row: _turns(row)[1:]
    ),
    "instructions": Task(
        lambda row: {"prompt": row["instruction"] if "instruction" in row else row["prompt"]}, lambda row: "", None
    ),
}


class FromData:
    """The benchmark that the settings name, or that of a task: rows in the file's order, ids by their place in it."""

    def __init__(self, settings: DataBenchmark, task: Task | None = None) -> None:
        self.settings, self.task = settings, task or TASKS[settings.kind]
        self.name, self.version = settings.name, self.task.version
        if isinstance(settings, CodeBenchmark):
            if not settings.allow_code_execution:
                raise UsageError(
                    f"benchmark={self.name} runs the programs that a model writes, in a sandbox: "
                    "allow it with benchmark.allow_code_execution=true."
                )
            sandbox.check_supported()
        self.rows = read_rows(settings.path, settings.split, settings, "benchmark.path")
        self._shots = self._read_shots() if settings.shots else ""

    def examples(self) -> list[Example]:
        made = []
        for n, row in enumerate(self.rows[: self.settings.limit]):
            name = f"{self.name}-{n}"
            prompt, reference, words = self._ask(row), self.task.reference(row), tuple(self.task.keywords(row))
            made.append(Example(name, self._shots + prompt, reference, row, words))
            for turn, prompt in enumerate(self.task.later_turns(row), start=2):
                made.append(Example(f"{name}.{turn}", prompt, "", row, follows=made[-1].id))
        return made

    def mark(self, example: Example, answer: str) -> Mark | None:
        return self.task.mark(example.row, answer, self.settings) if self.task.mark else None

    def _ask(self, row: Row) -> str:
        try:
            return self.settings.template.format(**self.task.names(row))
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(
                f"benchmark={self.name} cannot make a prompt: {error} is neither a field of its data "
                f"({', '.join(row)}) nor a name for benchmark.template."
            ) from error

    def _read_shots(self) -> str:
        s = self.settings
        if s.path and not s.shots_path:
            raise UsageError("benchmark.shots needs solved examples: set benchmark.shots_path to a file of them.")
        rows = read_rows(s.shots_path, s.shots_split, s, "benchmark.shots_path")[: s.shots]
        return "".join(f"{self._ask(row)}\n{self.task.reference(row)}\n\n" for row in rows)


def read_rows(path: str | None, split: str, settings: DataBenchmark, key: str) -> list[Row]:
    """Rows of a local file, or of the hub's data set if `path` is None. Raises UsageError."""
    if path is not None and path.startswith(REMOTE):
        source: dict[str, Any] = {"path": FORMATS[Path(path).suffix], "data_files": path, "split": "train"}
    elif path is not None:
        file = Path(path).expanduser()
        if file.suffix not in FORMATS:
            raise UsageError(f"{key}={path} is not data that can be read: give a file ending in {', '.join(FORMATS)}.")
        if not file.is_file():
            raise UsageError(f"{key}={path} does not exist.")
        source = {"path": FORMATS[file.suffix], "data_files": str(file), "split": "train"}
    elif settings.hub is not None:
        source = {"path": settings.hub, "name": settings.subset, "revision": settings.revision, "split": split}
    else:
        raise UsageError(f"benchmark={settings.name} needs data: set benchmark.path=<file> or benchmark.hub=<name>.")
    named = f"{key}={path}" if path else f"benchmark.hub={settings.hub}"
    advice = "" if path and not path.startswith(REMOTE) else f" Offline, set {key} to a file with the same fields."
    return list(rows_of(source, named, advice))


def rows_of(source: dict[str, Any], named: str, advice: str = "") -> Iterable[Row]:
    """The rows of what datasets.load_dataset takes. Raises UsageError, calling it `named`, if it cannot be read."""
    import datasets

    datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(**source)  # nosec B615: revision is a setting
    except Exception as error:  # datasets has no common base for what can be wrong with a file or the network
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{named} cannot be read: {reason}.{advice}") from error
