"""Word problems: text, worked answer and grade agree; splits never overlap."""

from __future__ import annotations

import random
import re

import pytest

from rws_cli.benchmarks.arithmetic import Arithmetic

WORDS = {
    "doubles": ("*", 2),
    "triples": ("*", 3),
    "quadruples": ("*", 4),
    "half": ("/", 2),
    "third": ("/", 3),
    "quarter": ("/", 4),
}


def work_out(problem: str) -> tuple[str, list[int], str]:
    """Read the problem as a person would: chain of listed, partial results, worked answer."""
    start, *events = re.match(r"\w+ has (\d+) \w+, (.*)\. how many now\?", problem).group(1, 2)  # type: ignore[union-attr]
    value = int(start)
    chain, answer, results = start, f"so {start}", []
    listed = events[0].split(", ")
    for n, event in enumerate(listed):
        word = next((w for w in WORDS if w in event), None)
        if word:
            op, operand = WORDS[word]
        else:
            operand = int(re.search(r"\d+", event).group())  # type: ignore[union-attr]
            op = "-" if event.split()[0] in ("loses", "sells", "eats", "gives") else "+"
        value = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[op]
        results.append(value)
        chain += f"{op}{operand}"
        answer += f" {op} {operand} {'####' if n == len(listed) - 1 else '='} {value}"
    return chain, results, answer


def test_answers_follow_from_the_problems() -> None:
    chains: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, seen in chains.items():
        for n in range(400):
            problem, answer = Arithmetic().make(random.Random(f"{split}{n}"), split)
            chain, results, expected = work_out(problem)
            assert answer == expected
            assert all(1 <= r <= 30 for r in results)
            assert 2 <= len(results) <= 4
            seen.add(chain)
    assert not chains["train"] & chains["test"]


def test_marks() -> None:
    benchmark = Arithmetic(limit=20)
    example = next(e for e in benchmark.examples() if e.reference.count("=") == 2)
    assert benchmark.grade(example, example.reference).correct
    assert benchmark.grade(example, example.reference).partial == 1.0
    last = example.reference.split()[-1]
    assert benchmark.grade(example, example.reference.replace(f"#### {last}", "#### 99")).partial == pytest.approx(
        2 / 3
    )
    assert benchmark.grade(example, f"#### {last}").correct
    nothing = benchmark.grade(example, "no idea")
    assert (nothing.correct, nothing.partial, nothing.extracted) == (False, 0.0, "")


def test_examples_depend_on_seed_and_index_alone() -> None:
    assert Arithmetic(limit=3).examples() == Arithmetic(limit=9).examples()[:3]
    assert Arithmetic(limit=3, seed=1).examples() != Arithmetic(limit=3).examples()
