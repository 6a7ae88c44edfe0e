"""Markers take whatever a model may write: they never raise, and end in time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import mark_of

from rws_cli.benchmarks.base import Grade
from rws_cli.benchmarks.countdown import Countdown
from rws_cli.benchmarks.gsm8k import Gsm8k
from rws_cli.benchmarks.humaneval import HumanEval
from rws_cli.benchmarks.keywords import Keywords
from rws_cli.benchmarks.math import Math
from rws_cli.benchmarks.mbpp import Mbpp
from rws_cli.benchmarks.sudoku4 import Sudoku4

HUMANEVAL = {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c): pass"}
MARKERS = {
    "gsm8k": lambda answer: mark_of(Gsm8k(), {"answer": "#### 18"}, answer),
    "countdown": lambda answer: mark_of(Countdown(), {"input": "2,3,4", "output": "24"}, answer),
    "sudoku4": lambda answer: mark_of(Sudoku4(), {"input": "0" * 16, "output": "1234341221434321"}, answer),
    "keywords": lambda answer: mark_of(Keywords(), {"words": ["dog", "a.b", "park"]}, answer),
    "humaneval": lambda answer: HumanEval().program(HUMANEVAL, answer),
    "mbpp": lambda answer: Mbpp().program({"test_list": ["assert f(2) == g"]}, answer),
    "math": lambda answer: mark_of(Math(), {"answer": "\\frac{1}{2}"}, answer),
}
PIECES = [
    "```", "```python\n", "~~~", "\n", "    ", "def f(", "):\n", "return x\n", '"""', "'", "\\", "\\d", "class f:\n", "import os\n",
    "from __future__ import annotations\n", "x = ", "x: y", "####", "-", "−", "–", "$", "%", "\\%", ",", ".", "1", "18", "1e999999",
    "9**9", "(", ")", "{", "}", "[", "\\boxed{", "\\frac{", "=", "+", "/", "x", "×", "Row 1:", "1. ", "3142", "answer:", "<answer>",
    "dog ", "park", "a.b", "Sure! ", "a.m. ", "! ", "…", "\ufeff", "\0", "\ud800", "\u2028", "٣",
]  # fmt: skip
ANSWERS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


@pytest.mark.parametrize("kind", MARKERS)
@given(answer=ANSWERS)
@settings(max_examples=50, deadline=None)
def test_no_answer_raises(kind: str, answer: str) -> None:
    found = MARKERS[kind](answer)
    assert isinstance(found, str) or (isinstance(found, Grade) and 0.0 <= found.partial <= 1.0)


LONG = {
    "digits": "1" * 5000,
    "exponent": "#### 1e999999",
    "powers": "9**9**9**9",
    "brackets": "(" * 5000,
    "opened lines": "x = (\n" * 200,
    "minus signs": "x = " + "-" * 20_000,
    "backslashes": "x = \\\n" * 500,
    "grades": "#### " * 5000,
    "spaces": "####" + " " * 20_000 + "x",
    "newlines": "\n" * 20_000 + "x",
    "stops": ". " * 20_000,
    "boxes": "\\boxed{" * 500,
    "lists": "- " * 5000,
    "fences": "```\n" * 2000,
    "equations": "1+1=2\n" * 2000,
}


@pytest.mark.parametrize("long", LONG)
def test_long_answers_are_marked_in_time(long: str) -> None:
    for kind in MARKERS.keys() - {"math"}:
        started = time.process_time()
        MARKERS[kind](LONG[long])
        assert time.process_time() - started < 2, kind
