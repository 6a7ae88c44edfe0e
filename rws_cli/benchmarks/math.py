"""Competition problems (MATH, arXiv 2103.03874), graded by math-verify on the last boxed formula."""

import logging
import re
import threading
import warnings

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.benchmarks.text import MINUS, last_box
from rws_cli.part import part

PERCENT = re.compile(r"(?:\\[ ,;!])?\\?[%％]")
SECONDS = 5
"""What math-verify may take to read, and to compare."""


@part
class Math(DataBenchmark):
    r"""math-verify's parser and equality, on the last \boxed{…} or, without one, on what it takes for the answer.

    As in MATH's own grader, percent signs are dropped on both sides. Reading and comparing take `SECONDS` each at most,
    in the main thread; math-verify's alarm works in no other.
    """

    version = 2
    needed = {"problem": fields.text, "answer": fields.answer}
    optional = {"solution": fields.text}

    def reference(self, row: Row) -> str:
        return row.get("solution", f"\\boxed{{{row['answer']}}}")

    def grade(self, example: Example, answer: str) -> Grade:
        from math_verify import parse, verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it would print the answers that it cannot read
        seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
        box = last_box(answer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = parse(f"\\boxed{{{_plain_signs(str(example.row['answer']))}}}", parsing_timeout=seconds)
            found = parse(_plain_signs(answer if box is None else f"\\boxed{{{box}}}"), parsing_timeout=seconds)
            correct = bool(verify(expected, found, timeout_seconds=seconds))
        return Grade(correct, float(correct), str(found[-1]) if found else "", "math-verify")


def _plain_signs(text: str) -> str:
    """Without percent signs, and with hyphens for minus signs."""
    return PERCENT.sub("", text).translate(dict.fromkeys(map(ord, MINUS), "-"))
