"""Benchmarks read from the Hugging Face hub or from a local file with the same fields. One `Task` each in TASKS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rws_cli.benchmarks import code, countdown, fields, keywords, mathematics, sandbox, sudoku4
from rws_cli.benchmarks.base import Benchmark, Example, Mark, Row
from rws_cli.benchmarks.rows import FORMATS, Placed, file_rows, hub_rows
from rws_cli.errors import UsageError
from rws_cli.paths import user_path
from rws_cli.schema import CodeBenchmark, DataBenchmark

REMOTE = "hf://"
"""A file on the Hugging Face hub, where no more than a file is there."""


@dataclass(frozen=True)
class Task:
    """How a data set becomes a benchmark.

    names: a row → what the prompt template may name.
    reference: a row → a right answer, as the model would write it; shots show it.
    mark: a row, an answer and the settings → its mark; None where no answer is right or wrong.
    keywords: a row → words that a good answer holds.
    later_turns: a row → what the user says after the first answer, turn by turn.
    solved: whether each row has a right answer; where not, answers are marked without, and `reference` may be "".
    needed, optional: fields that a row must or may have, and their kinds (see fields.py); the functions get such rows.
    """

    names: Callable[[Row], dict[str, Any]]
    reference: Callable[[Row], str]
    mark: Callable[[Row, str, Any], Mark] | None
    keywords: Callable[[Row], list[str]] = lambda row: []
    later_turns: Callable[[Row], list[str]] = lambda row: []
    needed: fields.Kinds = field(default_factory=dict)
    optional: fields.Kinds = field(default_factory=dict)
    solved: bool = True
    version: int = 1


def _turns(row: Row) -> list[str]:
    """FastChat's field, or the one of the set on the hub."""
    return row["turns"] if "turns" in row else row["prompt"]


TASKS = {
    "gsm8k": Task(
        lambda row: {"question": row["question"]},
        lambda row: row["answer"],
        lambda row, answer, settings: mathematics.mark_gsm8k(row, answer, few_shot=settings.shots > 0),
        needed={"question": fields.text, "answer": fields.gsm8k_answer},
        version=2,
    ),
    "math": Task(
        lambda row: {"problem": row["problem"]},
        lambda row: row.get("solution", f"\\boxed{{{row['answer']}}}"),
        lambda row, answer, _: mathematics.mark_math(row, answer),
        needed={"problem": fields.text, "answer": fields.answer},
        optional={"solution": fields.text},
        version=2,
    ),
    "countdown": Task(
        countdown.names,
        countdown.reference,
        lambda row, answer, _: countdown.mark(row, answer),
        needed={"input": fields.whole_numbers, "output": fields.target},
        solved=False,
        version=3,
    ),
    "sudoku4": Task(
        sudoku4.names,
        sudoku4.reference,
        lambda row, answer, _: sudoku4.mark(row, answer),
        needed={"Puzzle|input": fields.grid, "Solution|output": fields.grid},
        version=2,
    ),
    "keywords": Task(
        keywords.names,
        keywords.reference,
        lambda row, answer, _: keywords.mark(row, answer),
        keywords.words,
        needed={"words|answer": fields.keywords},
        solved=False,
        version=2,
    ),
    "humaneval": Task(
        code.humaneval_names,
        lambda row: row["prompt"] + row["canonical_solution"],
        lambda row, answer, settings: code.mark_program(code.humaneval_program(row, answer), settings),
        needed={
            "prompt": fields.text,
            "entry_point": fields.function_name,
            "canonical_solution": fields.text,
            "test": fields.text,
        },
        version=2,
    ),
    "mbpp": Task(
        code.mbpp_names,
        lambda row: row["code"],
        lambda row, answer, settings: code.mark_program(code.mbpp_program(row, answer), settings),
        needed={"text|prompt": fields.text, "test_list|test": fields.some_statements, "code": fields.text},
        optional={"test_setup_code": fields.text, "test_imports": fields.statements},
        version=2,
    ),
    "mt_bench": Task(
        lambda row: {"prompt": _turns(row)[0]},
        lambda row: "",
        None,
        later_turns=lambda row: _turns(row)[1:],
        needed={"turns|prompt": fields.some_texts},
    ),
    "instructions": Task(
        lambda row: {"prompt": row["instruction"] if "instruction" in row else row["prompt"]},
        lambda row: "",
        None,
        needed={"instruction|prompt": fields.text},
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
        self.named, self.rows = read_rows(settings.path, settings.split, settings, "benchmark.path")
        self._shots = self._read_shots() if settings.shots else ""

    def examples(self) -> list[Example]:
        made = []
        for n, placed in enumerate(self.rows[: self.settings.limit]):
            row, prompt, reference = self._read(self.named, placed)
            words, later = tuple(self.task.keywords(row)), self.task.later_turns(row)
            made.append(Example(f"{self.name}-{n}", self._shots + prompt, reference, row, words))
            for turn, prompt in enumerate(later, start=2):
                made.append(Example(f"{self.name}-{n}.{turn}", prompt, "", row, follows=made[-1].id))
        return made

    def mark(self, example: Example, answer: str) -> Mark | None:
        return self.task.mark(example.row, answer, self.settings) if self.task.mark else None

    def _read(self, named: str, placed: Placed) -> tuple[Row, str, str]:
        """A row as the task reads it, its prompt and its reference. Raises UsageError naming the row."""
        place, row = placed
        try:
            row = fields.read_fields(row, self.task.needed, self.task.optional)
            names, reference = self.task.names(row), self.task.reference(row)
        except ValueError as error:
            raise UsageError(f"{named}, {place} {error}.") from error
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"{named}, {place} cannot be used: {type(error).__name__}: {error}.") from error
        try:
            return row, self.settings.template.format(**names), reference
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(
                f"benchmark={self.name} cannot make a prompt: {error} is neither a field of its data "
                f"nor a name for benchmark.template (these are {', '.join(names)})."
            ) from error

    def _read_shots(self) -> str:
        s = self.settings
        if s.path and not s.shots_path:
            raise UsageError("benchmark.shots needs solved examples: set benchmark.shots_path to a file of them.")
        named, rows = read_rows(s.shots_path, s.shots_split, s, "benchmark.shots_path")
        solved = [self._read(named, placed) for placed in rows[: s.shots]]
        if not all(reference for _, _, reference in solved):
            raise UsageError(
                f"benchmark.shots needs solved examples, but not all of the first {s.shots} in {named} are."
            )
        return "".join(f"{prompt}\n{reference}\n\n" for _, prompt, reference in solved)


def doubtful_references(benchmark: Benchmark) -> str | None:
    """A warning about rows whose own reference is not marked as right; None if there are none, or no marker of text.

    Raises UsageError if that is so of all rows: their answers have a format that the benchmark does not know. Marks
    each reference, so it costs as much as to mark one answer to each row.
    """
    if not isinstance(benchmark, FromData) or isinstance(benchmark.settings, CodeBenchmark) or not benchmark.task.mark:
        return None
    examples = [example for example in benchmark.examples() if not example.follows]
    wrong = [
        f"{place}: {example.reference[-60:]!r}"
        for (place, _), example in zip(benchmark.rows, examples, strict=False)
        if not _accepted(benchmark, example)
    ]
    if len(wrong) == len(examples):
        raise UsageError(
            f"benchmark={benchmark.name} marks every reference in {benchmark.named} as wrong ({'; '.join(wrong[:3])}): it "
            "does not know this format of answers."
        )
    if not wrong:
        return None
    return (
        f"warning: benchmark={benchmark.name} marks {len(wrong)} of {len(examples)} references in {benchmark.named} as "
        f"wrong, and with them any answer: {'; '.join(wrong[:3])}"
    )


def _accepted(benchmark: FromData, example: Example) -> bool:
    if not example.reference and not benchmark.task.solved:
        return True
    try:
        mark = benchmark.mark(example, example.reference)
    except Exception:  # whatever a marker raises, it does not accept the reference
        return False
    return mark is None or mark.correct


def read_rows(path: str | None, split: str, settings: DataBenchmark, key: str) -> tuple[str, list[Placed]]:
    """What messages call the data, and the rows of a local file, or of the hub's data set if `path` is None.

    Raises UsageError if they cannot be read or there are none.
    """
    advice = f" Offline, set {key} to a file with the same fields."
    if path is not None and path.startswith(REMOTE):
        named, suffix = f"{key}={path}", Path(path).suffix
        source = {"path": suffix.removeprefix(".").replace("jsonl", "json"), "data_files": path, "split": "train"}
        placed = hub_rows(source, named, advice)
    elif path is not None:
        named, file = f"{key}={path}", local_file(path, key)
        placed = file_rows(file, named)
    elif settings.hub is not None:
        named = f"benchmark.hub={settings.hub}"
        placed = hub_rows(
            {"path": settings.hub, "name": settings.subset, "revision": settings.revision, "split": split},
            named,
            advice,
        )
    else:
        raise UsageError(f"benchmark={settings.name} needs data: set benchmark.path=<file> or benchmark.hub=<name>.")
    if not (rows := list(placed)):
        raise UsageError(f"{named} has no rows.")
    return named, rows


def local_file(path: str, key: str) -> Path:
    """A data file on this machine. Raises UsageError if there is none, or none of a known format."""
    file = user_path(path)
    if file.suffix not in FORMATS:
        raise UsageError(f"{key}={path} is not data that can be read: give a file ending in {', '.join(FORMATS)}.")
    if not file.is_file():
        raise UsageError(f"{key}={path} does not exist.")
    return file
