"""Questions with choices, from a file or the Hub; the choice of the highest likelihood after the prompt is the answer."""

from dataclasses import replace
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part, setting


def some_choices(value: Any) -> list[str]:
    if not all(fields.some_texts(value)):
        raise ValueError("has an empty text")
    return value


@part
class Choices(DataBenchmark):
    """Rows have a question, choices, and the number of the correct one from 0, or its text."""

    chooses = True
    between = ""  # a reference begins with its space
    needed = {"question|prompt": fields.text, "choices": some_choices, "answer|label": fields.answer}

    space: bool = setting("put a space between the prompt and each choice", True)

    @property
    def before(self) -> str:
        return " " if self.space else ""

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
