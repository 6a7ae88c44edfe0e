"""Grade-school word problems (GSM8K, arXiv 2110.14168), graded by the number after ####, or else the last number."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.benchmarks.text import MINUS, as_written
from rws_cli.part import part

FIGURES = r"\d[\d,]*(?:\.\d+)?|\.\d+"
AFTER_HASHES = re.compile(rf"####[\s$€£*\\]*+([{MINUS}]?)[ $€£*\\]*+({FIGURES})")
# A dash after a letter, a digit or a bracket is not a sign: 5–10 is a range, (7)-2 a difference.
NUMBER = re.compile(rf"((?:(?<![\w)\]])[{MINUS}])?)\\?[$€£]?({FIGURES})")


def worked_answer(value: Any) -> str:
    """Put #### before a bare number, as in a worked answer."""
    written = fields.answer(value)
    return f"#### {written.strip()}" if re.fullmatch(rf"\s*[{MINUS}]?\$?[\d,]*\.?\d+\s*", written) else written


@part
class Gsm8k(DataBenchmark):
    """Compares the number after "####", or else the last number in the completion, with the reference's, as decimals.

    If there are several "####", the last one counts. With shots it is the first, as in GSM8K's own grader, because a
    model that was shown solved questions continues with new ones.
    """

    version = 2
    needed = {"question": fields.text, "answer": worked_answer}

    def reference(self, row: Row) -> str:
        return row["answer"]

    def grade(self, example: Example, completion: str) -> Grade:
        number, extractor = extract_number(completion, first=self.shots > 0)
        expected, _ = extract_number(str(example.row["answer"]))
        correct = number is not None and number == expected
        return Grade(correct, float(correct), "" if number is None else as_written(number), extractor)


def extract_number(text: str, first: bool = False) -> tuple[Decimal | None, str]:
    """The last (or first) number after "####", else the last number in the text; and the rule that extracted it."""
    after_hashes = AFTER_HASHES.findall(text)
    numbers, extractor = (after_hashes, "####") if after_hashes else (NUMBER.findall(text), "last number")
    if not numbers:
        return None, "none"
    sign, figures = numbers[0 if after_hashes and first else -1]
    try:
        return Decimal(("-" if sign else "") + figures.replace(",", "")), extractor
    except InvalidOperation:
        return None, "none"
