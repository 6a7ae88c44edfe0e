"""ParallelBench (arXiv 2510.04767): short lists and small grids, easy but for tokens that are decoded at the same time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import REMOTE, DataBenchmark
from rws_cli.benchmarks.list_tasks import TASKS, generated
from rws_cli.benchmarks.rows import Placed
from rws_cli.errors import UsageError, choose_from
from rws_cli.files import open_regular, read_limited, user_path
from rws_cli.part import part, setting

CONFIG = "task_config.yaml"
"""The file of the published data that has the prompts of a folder's tasks."""
NOT_TEXT = {
    "words_to_sentence": "a grammar checker: benchmark=keywords reads such data and looks only for the words",
    "paraphrase_summarize": "a grammar checker, BERTScore, BLEU and ROUGE",
}
"""Published tasks that are graded by more than their text."""


def row_input(value: Any) -> Row:
    if not isinstance(value, dict):
        raise ValueError("is not an object with the names of the prompt")
    return value


def row_answer(value: Any) -> Any:
    """Text, or an object with the details that the grader needs and an `example` of a correct answer."""
    if isinstance(value, dict):
        fields.text(value.get("example"))
        return value
    return fields.text(value)


@part
class ParallelBench(DataBenchmark):
    """Graded as published: correct if the last list in the completion solves the task, or the grid does. Without data,
    questions are generated, of the same kinds, in words and with names of our own."""

    needed = {"input": row_input, "answer": row_answer}

    task: str = setting("the task by its published name, e.g. waiting_line/shuffle or puzzle/sudoku_n4_12")
    path: str | None = setting(
        "the folder of the published data (dataset/parallel_bench/data/output/test), or a task's .jsonl file; null: "
        "generated, unless benchmark.hub is set",
        None,
    )
    template: str = setting(
        "the prompt; names in {braces} are those of a row's input; empty: that of task_config.yaml beside the data", ""
    )
    shots: int = setting("solved examples shown as earlier turns of the conversation", 1, min=0)
    limit: int | None = setting(
        "number of rows, from the first; null: all, or 100 generated ones", None, min=1, asks=False
    )
    seed: int = setting("seed of generated questions; decoding has its own", 0)
    strict: bool = setting(
        "grade only what is written exactly as asked (score_strict of the published grader)", False, asks=False
    )

    def mistakes(self, key: str) -> Iterator[str]:
        group = self.task.partition("/")[0]
        if group in NOT_TEXT:
            yield f"{key}.task={self.task} is not supported: it is graded by {NOT_TEXT[group]}."
        elif self.task not in TASKS:
            yield f"{key}.task={self.task} is not known: {choose_from(self.task, TASKS)}"
        if self.shots_path is not None:
            yield f"{key}.shots_path has no use here: solved examples are in the rows."

    def names(self, row: Row) -> dict[str, Any]:
        return {name: value for name, value in row["input"].items() if name != "icl_examples"}

    def reference(self, row: Row) -> str:
        return row["answer"]["example"] if isinstance(row["answer"], dict) else row["answer"]

    def examples(self) -> list[Example]:
        if self.path is None and self.hub is None:
            rows = [(f"row {n + 1}", generated(self.task, self.seed, n, self.shots)) for n in range(self.limit or 100)]
            return self._examples("generated questions", rows, self.template or TASKS[self.task].template)
        path = self.path
        if path is not None and not path.startswith(REMOTE) and user_path(path).is_dir():
            path = str(Path(path) / f"{self.task}.jsonl")
        named, rows = self._rows(path, self.split, "benchmark.path")
        return self._examples(named, rows[: self.limit], self.template or self._published_template(path))

    def _examples(self, named: str, rows: list[Placed], template: str) -> list[Example]:
        made, filled = [], replace(self, template=template)
        for number, (place, row) in enumerate(rows):
            read, prompt, reference = filled._read(named, place, row)
            solved = read["input"].get("icl_examples") or []
            if len(solved) < self.shots:
                raise UsageError(
                    f"{named}, {place} has {len(solved)} solved examples: set benchmark.shots={len(solved)}."
                )
            history = tuple(filled._read(named, f"{place}, icl_examples", each)[1:] for each in solved[: self.shots])
            made.append(
                Example(f"{self.task}-{number}", _lines(prompt), reference, read, place=place, history=tuple(
                    (_lines(question), answer) for question, answer in history
                ))
            )  # fmt: skip
        return made

    def _published_template(self, path: str | None) -> str:
        """The prompt beside a task's file. Raises UsageError if there is none."""
        file = Path(path or "") if path is None or path.startswith(REMOTE) else user_path(path).parent / CONFIG
        if file.name != CONFIG or not file.is_file():
            raise UsageError(f"{path or self.hub} comes without {CONFIG}: set benchmark.template to the prompt.")
        try:
            with open_regular(file) as source:
                return str(yaml.safe_load(read_limited(source))[self.task]["prompt"])
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise UsageError(f"{file} has no prompt of {self.task}: {' '.join(str(error).split())}.") from error

    def grade(self, example: Example, completion: str) -> Grade:
        task = TASKS[self.task]
        read = task.read(completion, self.strict)
        correct = read is not None and task.right(read, example.row["answer"])
        extracted = (
            "" if read is None else "\n".join(",".join(map(str, row)) if isinstance(row, list) else row for row in read)
        )
        return Grade(correct, float(correct), extracted, task.extractor)


def _lines(prompt: str) -> str:
    """Some published prompts write line breaks as backslash and n."""
    return prompt.replace("\\n", "\n")
