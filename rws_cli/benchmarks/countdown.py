"""Countdown: reach a target from given numbers, each used exactly once, with + - * /; graded by evaluation."""

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
"""Arithmetic in text and LaTeX → in Python."""
LABEL = re.compile(r"^.*:|^\s*(?:[-*+>•]|\d+\))\s+")
"""What may precede an equation: "Step 1:", or the bullet of a list."""
ARITHMETIC = re.compile(r"[0-9.()+\-*/= ]+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def whole_numbers(value: Any) -> str:
    """The field input: two or more whole numbers, separated by commas."""
    written = fields.answer(value)
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)+", written):
        raise ValueError(f"is {written!r}, not whole numbers separated by commas")
    return written


def target(value: Any) -> str:
    """The field output: the number to reach, or equations that end in it."""
    written = fields.answer(value)
    if "=" not in written and not re.fullmatch(r"\s*-?\d+\s*", written):
        raise ValueError(f"is {written!r}, neither a whole number nor equations")
    return written


@part
class Countdown(DataBenchmark):
    """Correct if the completion reaches the target from all numbers, in one expression or in equations separated by lines
    or commas. Text after the line that reaches it is ignored.

    For equations, `partial` is the share of steps (one fewer than numbers) that are correct before the first wrong one.
    """

    version = 3
    solved = False
    needed = {"input": whole_numbers, "output": target}

    def names(self, row: Row) -> dict[str, Any]:
        numbers, target = problem(row)
        return {"numbers": ", ".join(map(str, numbers)), "target": target}

    def reference(self, row: Row) -> str:
        """The equations, if the data set has them."""
        return row["output"] if "=" in row["output"] else ""

    def grade(self, example: Example, completion: str) -> Grade:
        numbers, target = problem(example.row)
        lines = [line for line in map(statements, final_answer(completion).splitlines()) if line]
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
    """Numbers and target. If the output has equations, the target is the last input; otherwise it is the output."""
    inputs = [int(n) for n in row["input"].split(",")]
    return (inputs[:-1], inputs[-1]) if "=" in row["output"] else (inputs, int(row["output"]))


def _expression(sides: list[str], numbers: list[int], target: int) -> float:
    """1 if each side equals the target and one uses all numbers, else 0."""
    values = [evaluate(side) for side in sides]
    wanted = Counter(map(Fraction, numbers))
    return float(all(value == target for value, _ in values) and any(used == wanted for _, used in values))


def _equations(steps: list[list[str]], numbers: list[int], target: int) -> float:
    """1 if all equations are true and use each available number or earlier result once, leaving only the target; else the
    share of steps before the first mistake."""
    available, good, reached = Counter(map(Fraction, numbers)), 0, None
    for left, *claims in steps:
        value, used = evaluate(left)
        if value is None or not claims or any(evaluate(claim)[0] != value for claim in claims) or not used <= available:
            break
        available = available - used + Counter([value])
        good, reached = good + 1, value
    correct = good == len(steps) and reached == target and available == Counter([Fraction(target)])
    needed = max(len(numbers) - 1, 1)
    return 1.0 if correct else min(good, needed - 1) / needed


# --- parsing ------------------------------------------------------------------------------------------------------


def final_answer(completion: str) -> str:
    r"""The answer as labeled by <answer>, \boxed, "Answer:" or "answer is", if it has arithmetic; else the completion."""
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", completion, re.DOTALL | re.IGNORECASE)
    labeled = re.split(r"\banswer\b\W*?(?:is\b|:)", completion, flags=re.IGNORECASE)[1:]
    for candidate in (*tagged[-1:], last_box(completion) or "", *labeled[-1:]):
        if any(map(statements, candidate.splitlines())):
            return candidate
    return completion


def statements(line: str) -> list[list[str]]:
    """The expressions and equations of a line, each as a list of its sides in Python syntax, without labels and words."""
    for pattern, sign in SIGNS:
        line = re.sub(pattern, sign, line)
    parts = [LABEL.sub("", part).strip(" *`_") for part in re.split(r"[,;]|\.(?!\d)", line)]
    return [part.split("=") for part in parts if ARITHMETIC.fullmatch(part) and re.search(r"[-+*/=]", part)]


def evaluate(text: str) -> tuple[Fraction | None, Counter[Fraction]]:
    """The value of an arithmetic expression and its numbers; None if it is not one, or divides by zero."""
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
