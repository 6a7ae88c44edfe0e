"""Countdown: reach a target from given numbers, each used exactly once, with + - * /."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rws_cli.benchmarks.base import Mark, Row

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def problem(row: Row) -> tuple[list[int], int]:
    """Numbers and target. Dream's files put the target last among the inputs; d1's have it as the output."""
    given = [int(n) for n in str(row["input"]).split(",")]
    return (given[:-1], given[-1]) if "=" in str(row["output"]) else (given, int(row["output"]))


def names(row: Row) -> dict[str, Any]:
    numbers, target = problem(row)
    return {"numbers": ", ".join(map(str, numbers)), "target": target}


def mark(row: Row, answer: str) -> Mark:
    """Right if the first line of the answer reaches the target from all numbers, in one expression or in equations.

    `partial` is the share of steps (one fewer than numbers) that are right before the first wrong one, for equations.
    """
    numbers, target = problem(row)
    line = next((line.strip() for line in answer.splitlines() if line.strip()), "")
    steps = [step.split("=") for step in re.split(r"[,;]", line.rstrip(".")) if step.strip()]
    if len(steps) == 1:
        reached, used = evaluate(steps[0][0])
        says_so = len(steps[0]) < 2 or evaluate(steps[0][1])[0] == target
        correct = reached == target and used == Counter(numbers) and says_so
        return Mark(correct, float(correct), line, "expression")
    at_hand, good, reached = Counter(map(Fraction, numbers)), 0, None
    for step in steps:
        value, used = evaluate(step[0])
        claimed = evaluate(step[1])[0] if len(step) == 2 else None
        needed = Counter({Fraction(n): k for n, k in used.items()})
        if value is None or value != claimed or not needed <= at_hand:
            break
        at_hand = at_hand - needed + Counter([value])
        good, reached = good + 1, value
    correct = good == len(steps) and reached == target and at_hand == Counter([Fraction(target)])
    return Mark(correct, 1.0 if correct else min(good, len(numbers) - 2) / (len(numbers) - 1), line, "equations")


def evaluate(text: str) -> tuple[Fraction | None, Counter[int]]:
    """The value of an arithmetic expression and the numbers in it; None if it is anything else, or divides by zero."""
    used: Counter[int] = Counter()

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                used[number] += 1
                return Fraction(number)
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
        raise ValueError

    text = text.strip().replace("×", "*").replace("÷", "/")
    if len(text) > 200:
        return None, Counter()
    try:
        return value(ast.parse(text, mode="eval").body), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None, Counter()
