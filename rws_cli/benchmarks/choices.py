"""Questions with choices, from a file or the Hub; the choice of the highest likelihood after the prompt is the answer."""

from dataclasses import replace
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part, setting


def number_or_text(value: Any) -> str:
    """The correct choice: its number from 0, or its text."""
    return fields.answer(value)


@part
class Choices(DataBenchmark):
    """Rows have a question, choices, and the number of the correct one from 0, or its text."""

    chooses = True
    needed = {"question|prompt": fields.text, "choices": fields.some_texts, "answer|label": fields.answer}

    before: str = setting("text between the prompt and each choice", " ")

    def names(self, row: Row) -> dict[str, Any]:
        return row

    def reference(self, row: Row) -> str:
        choices, answer = row["choices"], row["answer"]
        if answer in choices:
            return self.before + answer
        if not answer.isdigit() or int(answer) >= len(choices):
            raise ValueError(
                f"cannot be used: its answer {answer!r} is neither one of its choices nor the number of one"
            )
        return self.before + choices[int(answer)]

    def examples(self) -> list[Example]:
        return [
            replace(example, choices=tuple(self.before + choice for choice in example.row["choices"]))
            for example in super().examples()
        ]

    def grade(self, example: Example, completion: str) -> Grade:
        correct = completion == example.reference
        return Grade(correct, float(correct), completion.removeprefix(self.before), "likeliest choice")
