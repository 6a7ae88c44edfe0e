"""Word problems of two to four steps, with a worked answer that ends in a marked result.

    tom has 12 apples, buys 7 more, loses 15, triples the rest. how many now?
    so 12 + 7 = 19 - 15 = 4 * 3 #### 12

Quantities are 1 to 30, a token each; each partial result is written once, so that it must be computed and cannot be
copied. Train and test never share a chain of numbers and operations ("12+7-15*3"): the split is a hash of it.
"""

import random
import re

from rws_cli.benchmarks.base import Example, Generated, Grade, Split, held_out
from rws_cli.part import part

PEOPLE = ["tom", "sam", "ann", "eva", "ben", "mia", "leo", "zoe"]
THINGS = ["apples", "coins", "cards", "books", "eggs", "pens", "shells", "stamps"]
PHRASES = {
    "+": ["buys {} more", "finds {}", "wins {}", "gets {} more"],
    "-": ["loses {}", "sells {}", "eats {}", "gives {} away"],
    "*2": ["doubles the rest"],
    "*3": ["triples the rest"],
    "*4": ["quadruples the rest"],
    "/2": ["keeps half"],
    "/3": ["keeps a third"],
    "/4": ["keeps a quarter"],
}
LOW, HIGH = 1, 30

Step = tuple[str, int, int]
"""Operation, operand, result."""


def _steps_from(value: int, rng: random.Random) -> Step:
    """One step whose operand (if it adds or subtracts) and result both lie in [1, 30]."""
    kinds = []
    if value + LOW <= HIGH:
        kinds += ["+"] * 3
    if value - LOW >= LOW:
        kinds += ["-"] * 3
    kinds += [f"*{k}" for k in (2, 3, 4) if value * k <= HIGH]
    kinds += [f"/{k}" for k in (2, 3, 4) if value % k == 0 and value // k >= LOW]
    kind = rng.choice(kinds)
    if kind == "+":
        operand = rng.randint(LOW, HIGH - value)
        return kind, operand, value + operand
    if kind == "-":
        operand = rng.randint(LOW, value - LOW)
        return kind, operand, value - operand
    operand = int(kind[1])
    return kind[0], operand, value * operand if kind[0] == "*" else value // operand


def results(answer: str) -> list[str]:
    """The partial results of a worked answer, in order; the graded one last."""
    return re.findall(r"(?:=|####) (\d+)", answer)


@part
class Arithmetic(Generated):
    """Right if the number behind "####" is; `partial` is the share of partial results that are, in their places."""

    def make(self, rng: random.Random, split: Split) -> tuple[str, str]:
        """A problem (the prompt) and its worked answer."""
        while True:
            start = value = rng.randint(LOW, HIGH)
            steps: list[Step] = []
            for _ in range(rng.randint(2, 4)):
                steps.append(_steps_from(value, rng))
                value = steps[-1][2]
            chain = str(start) + "".join(f"{op}{operand}" for op, operand, _ in steps)
            if held_out("arithmetic " + chain) == (split == "test"):
                break
        told = [rng.choice(PHRASES[op if op in "+-" else f"{op}{operand}"]).format(operand) for op, operand, _ in steps]
        problem = f"{rng.choice(PEOPLE)} has {start} {rng.choice(THINGS)}, {', '.join(told)}. how many now?"
        answer = f"so {start}"
        for number, (op, operand, result) in enumerate(steps, start=1):
            answer += f" {op} {operand} {'####' if number == len(steps) else '='} {result}"
        return problem, answer

    def keywords(self, prompt: str) -> tuple[str, ...]:
        """The quantities that the problem tells."""
        return tuple(dict.fromkeys(re.findall(r"\d+", prompt)))

    def grade(self, example: Example, answer: str) -> Grade:
        expected, found = results(example.reference), results(answer)
        graded = re.search(r"#### (\d+)", answer)
        extracted = graded.group(1) if graded else ""
        hits = sum(a == b for a, b in zip(found, expected, strict=False))
        return Grade(
            correct=extracted == expected[-1], partial=hits / len(expected), extracted=extracted, extractor="####"
        )
