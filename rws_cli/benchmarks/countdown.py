"""Reach a target from given numbers, each used exactly once, with + - * /; graded by evaluating what is written."""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.benchmarks.text import last_box
from rws_cli.part import part

MOST_LINES = 50
SIGNS = [
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\boxed\s*\{(.*)\}", r"\1"),
    (r"</?answer>|\\left|\\right|\\[()\[\],;! ]|\$", " "),
    (r"\\times|\\cdot|\\ast|[×✕✖⋅·∙∗]|(?<=[\d)])\s*[xX]\s*(?=[\d(])", "*"),
    (r"\\div|[÷∕⁄]", "/"),
    (r"[−–—]", "-"),
    (r"\s+", " "),
]
"""How arithmetic is written in text and in LaTeX, and how in Python."""
LABEL = re.compile(r"^.*:|^\s*(?:[-*+>•]|\d+\))\s+")
"""What may stand before an equation: "Step 1:", or the mark of a list."""
ARITHMETIC = re.compile(r"[0-9.()+\-*/= ]+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def whole_numbers(value: Any) -> str:
    """The input: two or more, with commas between them."""
    written = fields.answer(value)
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)+", written):
        raise ValueError(f"is {written!r}, not whole numbers with commas between them")
    return written


def target(value: Any) -> str:
    """The output: the number to reach, or equations that end in it."""
    written = fields.answer(value)
    if "=" not in written and not re.fullmatch(r"\s*-?\d+\s*", written):
        raise ValueError(f"is {written!r}, neither a whole number nor equations")
    return written


@part
class Countdown(DataBenchmark):
    """Right if the answer reaches the target from all numbers, in one expression or in equations, a line or a comma
    between them. What follows the line that reaches it is not read.

    `partial` is the share of steps (one fewer than numbers) that are right before the first wrong one, for equations.
    """

    version = 3
    solved = False
    needed = {"input": whole_numbers, "output": target}

    def names(self, row: Row) -> dict[str, Any]:
        numbers, target = problem(row)
        return {"numbers": ", ".join(map(str, numbers)), "target": target}

    def reference(self, row: Row) -> str:
        """The equations, where the data have them."""
        return row["output"] if "=" in row["output"] else ""

    def grade(self, example: Example, answer: str) -> Grade:
        numbers, target = problem(example.row)
        lines = [line for line in map(statements, final_answer(answer).splitlines()) if line]
        steps: list[list[str]] = []
        partial = 0.0
        for line in lines[:MOST_LINES]:
            steps += line
            partial = _expression(steps[0], numbers, target) if len(steps) == 1 else _equations(steps, numbers, target)
            if partial == 1.0:
                break
        extracted = ", ".join("=".join(step) for step in steps)
        extractor = "equations" if len(steps) > 1 else "expression" if steps else "none"
        return Grade(partial == 1.0, partial, extracted, extractor)


def problem(row: Row) -> tuple[list[int], int]:
    """Numbers and target. Files with equations as the output have the target last among the inputs; others as the output."""
    given = [int(n) for n in row["input"].split(",")]
    return (given[:-1], given[-1]) if "=" in row["output"] else (given, int(row["output"]))


def _expression(sides: list[str], numbers: list[int], target: int) -> float:
    """1 if each side is the target, and one is made of all numbers."""
    values = [evaluate(side) for side in sides]
    wanted = Counter(map(Fraction, numbers))
    return float(all(value == target for value, _ in values) and any(used == wanted for _, used in values))


def _equations(steps: list[list[str]], numbers: list[int], target: int) -> float:
    """1 if each is true and uses numbers at hand, results among them, once, so that the target alone is left."""
    at_hand, good, reached = Counter(map(Fraction, numbers)), 0, None
    for left, *claims in steps:
        value, used = evaluate(left)
        if value is None or not claims or any(evaluate(claim)[0] != value for claim in claims) or not used <= at_hand:
            break
        at_hand = at_hand - used + Counter([value])
        good, reached = good + 1, value
    correct = good == len(steps) and reached == target and at_hand == Counter([Fraction(target)])
    needed = max(len(numbers) - 1, 1)
    return 1.0 if correct else min(good, needed - 1) / needed


# --- reading ------------------------------------------------------------------------------------------------------


def final_answer(answer: str) -> str:
    r"""What the answer calls so, by <answer>, \boxed, "Answer:" or "answer is", if arithmetic is in it; else all."""
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", answer, re.DOTALL | re.IGNORECASE)
    labeled = re.split(r"\banswer\b\W*?(?:is\b|:)", answer, flags=re.IGNORECASE)[1:]
    for found in (*tagged[-1:], last_box(answer) or "", *labeled[-1:]):
        if any(map(statements, found.splitlines())):
            return found
    return answer


def statements(line: str) -> list[list[str]]:
    """The expressions and equations of a line, each as its sides, in Python's signs; labels and words are dropped."""
    for pattern, sign in SIGNS:
        line = re.sub(pattern, sign, line)
    parts = [LABEL.sub("", part).strip(" *`_") for part in re.split(r"[,;]|\.(?!\d)", line)]
    return [part.split("=") for part in parts if ARITHMETIC.fullmatch(part) and re.search(r"[-+*/=]", part)]


def evaluate(text: str) -> tuple[Fraction | None, Counter[Fraction]]:
    """The value of an arithmetic expression and the numbers in it; None if it is anything else, or divides by zero."""
    used: Counter[Fraction] = Counter()

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number) | float(number)):
                used[Fraction(str(number))] += 1
                return Fraction(str(number))
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.UnaryOp(ast.UAdd(), operand):
                return value(operand)
        raise ValueError

    if len(text) > 200 or not ARITHMETIC.fullmatch(text):
        return None, Counter()
    try:
        return value(ast.parse(text.strip(), mode="eval").body), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None, Counter()
