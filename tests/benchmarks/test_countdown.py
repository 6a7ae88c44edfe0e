"""Countdown: the ways to write a right answer, and that no other is taken for one."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest
from support import mark_of

from rws_cli.benchmarks.countdown import Countdown

FOUR = {"input": "86,28,13,31,96", "output": "86+28=114,31-13=18,114-18=96"}
PRODUCT = {"input": "2,3,4", "output": "24"}
QUOTIENT = {"input": "8,2,4", "output": "1"}


@pytest.mark.parametrize(
    "answer",
    [
        "86+28=114\n31-13=18\n114-18=96",
        "86+28=114,\n31-13=18,\n114-18=96.",
        "```\n86+28=114\n31-13=18\n114-18=96\n```",
        "```text\n(86+28)-(31-13)\n```",
        "Answer: (86+28)-(31-13)",
        "**Answer:** 86+28=114, 31-13=18, 114-18=96",
        "86-31=55, which leads nowhere.\nAnswer: 86+28-31+13",
        "The answer is 86+28-31+13.",
        "The answer is: **86+28-31+13**",
        "86-31=55 leads nowhere, so the answer is (86+28)-(31-13) = 96.",
        "$86+28=114$, $31-13=18$, $114-18=96$",
        "$$(86+28)-(31-13)=96$$",
        "\\[ \\left(86+28\\right)-\\left(31-13\\right) = 96 \\]",
        "\\boxed{(86+28)-(31-13)}",
        "86 + 28 - 31 + 13 = \\boxed{96}",
        "<answer>86+28-31+13</answer>",
        "<answer>\n\\boxed{86+28-31+13}\n</answer>",
        "86+28−31+13",
        "86 + 28 – 31 + 13 = 96",
        "Step 1: 86+28=114\nStep 2: 31-13=18\nStep 3: 114-18=96",
        "1. 86+28=114\n2. 31-13=18\n3. 114-18=96",
        "- 86+28=114\n- 31-13=18\n- 114-18=96",
        "86+28=114. 31-13=18. 114-18=96.",
        "Sure, here it is:\n\n86+28-31+13\n\nThis uses every number once.",
        "86+28=114\n31-13=18\n114-18=96\nAnswer: 96",
        "(86+28)-(31-13) = 96\n86+28=114, 31-13=18",
        "96 = 86+28-31+13",
        "`86+28-31+13`",
    ],
)
def test_right_answers_count_however_they_are_set(answer: str) -> None:
    grade = mark_of(Countdown(), FOUR, answer)
    assert grade.correct, grade
    assert grade.partial == 1.0
    assert not mark_of(Countdown(), FOUR, answer.replace("13", "12")).correct


@pytest.mark.parametrize("sign", ["*", "×", "x", "X", " x ", "\\times ", " \\cdot ", "·", "⋅", "∗"])
def test_signs_of_multiplication(sign: str) -> None:
    assert mark_of(Countdown(), PRODUCT, f"2{sign}3{sign}4 = 24").correct


@pytest.mark.parametrize(
    "answer", ["8/2/4", "8÷2÷4", "8 \\div 2 \\div 4 = 1", "\\frac{8}{2}/4", "$\\dfrac{8}{2 \\times 4}$"]
)
def test_signs_of_division(answer: str) -> None:
    assert mark_of(Countdown(), QUOTIENT, answer).correct


@pytest.mark.parametrize(
    "answer",
    [
        "2*3*4=24=25", "2*3*4=25", "2*3*4%100", "2*3*4^1", "2*3*4!", "2*3*4 mod 100", "2**3*4-8", "2*3*4//1", "(2)(3)(4)",
        "24", "4!", "2*12", "2*3*4*1", "2*3=6,6*4=25", "2*3=6,6*4=24,1+1=3", "2*3*4=1e999", "2_0+4", "9**9**9", "9" * 9999,
        "(" * 3000, "2*3*4" + "+0" * 999, "",
    ],
)  # fmt: skip
def test_other_answers_do_not_count(answer: str) -> None:
    assert not mark_of(Countdown(), PRODUCT, answer).correct


def write(rng: random.Random, numbers: list[int]) -> str:
    """A random expression with brackets around all of its parts."""
    if len(numbers) == 1:
        return str(numbers[0])
    cut = rng.randrange(1, len(numbers))
    return f"({write(rng, numbers[:cut])}{rng.choice('+-*/')}{write(rng, numbers[cut:])})"


def work_out(text: str) -> Fraction | None:
    """Its value by Python's own evaluation, in fractions; None if Python cannot, or if it has other signs."""
    if re.search(r"[^\d+\-*/() ]|\*\*|//", text):
        return None
    try:
        return eval(re.sub(r"\d+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
    except (SyntaxError, TypeError, ZeroDivisionError):
        return None


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of calls such as (1)(2), from the evaluation here
def test_what_is_right_is_what_python_works_out() -> None:
    rng = random.Random(0)
    outcomes = set()
    for _ in range(1500):
        numbers = [rng.randint(1, 30) for _ in range(rng.randint(2, 4))]
        text = write(rng, rng.sample(numbers, len(numbers)))
        value = work_out(text)
        if value is None or value.denominator != 1 or rng.random() < 0.2:
            value = Fraction(rng.randint(1, 50))
        if rng.random() < 0.5:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(["", *"0123456789+-*/()^%!. "]) + text[place + rng.randint(0, 1) :]
        used = sorted(int(number) for number in re.findall(r"\d+", text))
        expected = used == sorted(numbers) and work_out(text) == value
        row = {"input": ",".join(map(str, numbers)), "output": str(value)}
        found = mark_of(Countdown(), row, text).correct
        # A full stop ends a sentence and a leading "- " grades a list, which Python does not know of.
        if "." not in text and not text.startswith("- "):
            assert found == expected, (row, text)
            outcomes.add(found)
    assert outcomes == {True, False}
