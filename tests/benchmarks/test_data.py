"""Benchmarks from files: the published files' own answers pass, and answers that should not do not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from support import SHARED, mark_of

from rws_cli.benchmarks.countdown import Countdown
from rws_cli.benchmarks.gsm8k import Gsm8k
from rws_cli.benchmarks.keywords import Keywords
from rws_cli.benchmarks.math import Math
from rws_cli.benchmarks.sudoku4 import Sudoku4
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError

DATA = SHARED / "data"


def load(name: str, path: Path, *overrides: str):
    return compose(f"benchmark={name}", f"benchmark.path='{path}'", *overrides).benchmark


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [
        ("gsm8k", "gsm8k_test_1000.jsonl", 1000),
        ("countdown", "countdown_cd4_test.jsonl", 1000),
        ("sudoku4", "sudoku_4x4_8.jsonl", 108),
        ("sudoku4", "sudoku_4x4_test.csv", 500),
        ("math500", "math500_test.jsonl", 500),
    ],
)
def test_the_published_answers_pass(name: str, file: str, rows: int) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not at hand")
    benchmark = load(name, DATA / file)
    examples = benchmark.examples()
    assert len(examples) == rows
    assert len({e.id for e in examples}) == rows
    wrong = [e.id for e in examples if not benchmark.grade(e, e.reference).correct]
    assert wrong == []
    # Another example's answer passes only where it happens to be the same.
    shifted = [benchmark.grade(e, other.reference).correct for e, other in itertools.pairwise(examples)]
    assert sum(shifted) <= 0.1 * rows


@pytest.mark.parametrize(
    ("answer", "correct", "extractor"),
    [
        ("It is 7, and so\n#### 18", True, "####"),
        ("#### 1,018", False, "####"),
        ("She makes $18.00 a day.", True, "last number"),
        ("18 eggs and then 3", False, "last number"),
        ("#### 18\n#### 19", False, "####"),
        ("no idea", False, "none"),
        ("", False, "none"),
    ],
)
def test_gsm8ks_rule(answer: str, correct: bool, extractor: str) -> None:
    grade = mark_of(Gsm8k(), {"answer": "9 * 2 = <<9*2=18>>18\n#### 18"}, answer)
    assert (grade.correct, grade.extractor) == (correct, extractor)
    assert grade.partial == float(correct)


def test_math_compares_values_not_strings() -> None:
    row = {"answer": "\\frac{1}{2}"}
    assert mark_of(Math(), row, "so the answer is $\\boxed{0.5}$").correct
    assert mark_of(Math(), row, "$\\boxed{\\dfrac{2}{4}}$").correct
    assert not mark_of(Math(), row, "$\\boxed{\\frac{1}{3}}$").correct
    assert not mark_of(Math(), row, "").correct


FOUR = {"input": "86,28,13,31,96", "output": "86+28=114,31-13=18,114-18=96"}
THREE = {"input": "30,100,93", "output": "23"}


@pytest.mark.parametrize(
    ("row", "answer", "correct", "partial"),
    [
        (FOUR, "86+28=114,31-13=18,114-18=96", True, 1.0),
        (FOUR, "(86 + 28) - (31 - 13) = 96", True, 1.0),
        (FOUR, "86+28=114,31-13=18,114-18=95", False, 2 / 3),
        (FOUR, "86+28=114,86-13=73,114-18=96", False, 1 / 3),  # 86 was used up
        (FOUR, "86+28=114, 114-18=96", False, 1 / 3),  # 18 is not at hand
        (FOUR, "96", False, 0.0),
        (THREE, "100 - 93 + 30", False, 0.0),
        (THREE, "30 - (100 - 93)", True, 1.0),
        (THREE, "30 - (100 - 93) = 24", False, 0.0),
        (THREE, "30/0", False, 0.0),
        (THREE, "__import__('os').system('true')", False, 0.0),
        (THREE, "9**9**9", False, 0.0),
        (THREE, "", False, 0.0),
    ],
)
def test_countdown_is_evaluated(row: dict, answer: str, correct: bool, partial: float) -> None:
    grade = mark_of(Countdown(), row, answer)
    assert grade.correct is correct
    assert grade.partial == pytest.approx(partial)


def test_any_solution_of_a_4x4_sudoku_counts() -> None:
    row = {"input": "0000\n0000\n0000\n0000", "output": "1234\n3412\n2143\n4321"}
    assert mark_of(Sudoku4(), row, "4321\n2143\n3412\n1234").correct
    assert not mark_of(Sudoku4(), {**row, "input": "1000\n0000\n0000\n0000"}, "4321\n2143\n3412\n1234").correct
    off_by_one = mark_of(Sudoku4(), row, "1234341221434322")
    assert not off_by_one.correct
    assert off_by_one.partial == 15 / 16
    assert mark_of(Sudoku4(), row, "12").partial == 2 / 16


def test_all_words_in_one_sentence() -> None:
    row = {"answer": {"words": ["dog", "park"]}}
    assert mark_of(Keywords(), row, "The Dog ran through the park.").correct
    assert mark_of(Keywords(), row, "A dog. A park.").partial == 0.5
    assert mark_of(Keywords(), row, "Dogs parked.").partial == 0.0


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_shots_and_limits(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}?", "answer": f"a{n}\n#### {n}"} for n in range(4)]
    test, train = write(tmp_path / "test.jsonl", rows), write(tmp_path / "train.jsonl", rows[::-1])
    shots = ("benchmark.shots=2", f"benchmark.shots_path={train}", "benchmark.limit=3")
    examples = load("gsm8k", test, *shots, "benchmark.template='Q: {question}'").examples()
    assert [e.id for e in examples] == ["gsm8k-0", "gsm8k-1", "gsm8k-2"]
    assert examples[1].prompt == "Q: q3?\na3\n#### 3\n\nQ: q2?\na2\n#### 2\n\nQ: q1?"


def test_what_is_wrong_with_data_is_one_sentence(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", [{"question": "q", "answer": "#### 1"}])
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{nothing")
    cases = [
        ((tmp_path / "none.jsonl",), "does not exist"),
        ((tmp_path,), "give a file ending in"),
        ((broken,), "cannot be read"),
        ((good, "benchmark.template='{query}'"), "'query' is neither a field"),
        ((good, "benchmark.shots=1"), "benchmark.shots_path"),
        ((write(tmp_path / "other.jsonl", [{"prompt": "q"}]),), r"row 1 has no field question \(it has prompt\)"),
    ]
    for (path, *overrides), words in cases:
        with pytest.raises(UsageError, match=words):
            load("gsm8k", path, *overrides).examples()
    with pytest.raises(UsageError, match=r"benchmark\.hub=openai/gsm8k cannot be read.*benchmark\.path"):
        compose("benchmark=gsm8k").benchmark.examples()
