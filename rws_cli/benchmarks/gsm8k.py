"""Grade-school word problems (GSM8K, arXiv 2110.14168), graded by the number behind #### or the last one."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.benchmarks.text import MINUS, as_written
from rws_cli.part import part

FIGURES = r"\d[\d,]*(?:\.\d+)?|\.\d+"
MARKED = re.compile(rf"####[\s$€£*\\]*+([{MINUS}]?)[ $€£*\\]*+({FIGURES})")
# A dash after a letter, a digit or a bracket is not a sign: 5–10 is a range, (7)-2 a difference.
NUMBER = re.compile(rf"((?:(?<![\w)\]])[{MINUS}])?)\\?[$€£]?({FIGURES})")


def worked_answer(value: Any) -> str:
    """A number alone gets the mark that stands before it in a worked answer."""
    written = fields.answer(value)
    return f"#### {written.strip()}" if re.fullmatch(rf"\s*[{MINUS}]?\$?[\d,]*\.?\d+\s*", written) else written


@part
class Gsm8k(DataBenchmark):
    """The number behind "####", or else the last number of the answer; equal as a decimal to the reference's.

    Of several "####" the last counts. With shots it is the first, as in GSM8K's own grader, for a model that was shown
    solved questions goes on to ask itself more of them.
    """

    version = 2
    needed = {"question": fields.text, "answer": worked_answer}

    def reference(self, row: Row) -> str:
        return row["answer"]

    def grade(self, example: Example, answer: str) -> Grade:
        found, extractor = extract_number(answer, first=self.shots > 0)
        expected, _ = extract_number(str(example.row["answer"]))
        correct = found is not None and found == expected
        return Grade(correct, float(correct), "" if found is None else as_written(found), extractor)


def extract_number(text: str, first: bool = False) -> tuple[Decimal | None, str]:
    """The last number behind "####" (or the first), else the last of the text, and which of the two it is."""
    graded = MARKED.findall(text)
    found, extractor = (graded, "####") if graded else (NUMBER.findall(text), "last number")
    if not found:
        return None, "none"
    sign, figures = found[0 if graded and first else -1]
    try:
        return Decimal(("-" if sign else "") + figures.replace(",", "")), extractor
    except InvalidOperation:
        return None, "none"
