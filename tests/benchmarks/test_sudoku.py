"""Sudokus: one solution each, found by an independent solver; splits that never meet; grades."""

from __future__ import annotations

import random
from itertools import permutations, product

import pytest

from rws_cli.benchmarks.sudoku import Sudoku, canonical, in_split, make_puzzle


def legal(grid: str) -> bool:
    rows = [grid[6 * r : 6 * r + 6] for r in range(6)]
    columns = [grid[c::6] for c in range(6)]
    boxes = [
        "".join(rows[2 * i + a][3 * j + b] for a, b in product(range(2), range(3))) for i in range(3) for j in range(2)
    ]
    return all(sorted(unit) == list("123456") for unit in (*rows, *columns, *boxes))


ROWS = ["".join(p) for p in permutations("123456")]


def solutions(puzzle: str) -> list[str]:
    """All solutions, row by row from the 720 possible rows: slow and obvious."""
    partial = [""]
    for r in range(6):
        clues = puzzle[6 * r : 6 * r + 6]
        fitting = [row for row in ROWS if all(c in ("_", d) for c, d in zip(clues, row, strict=True))]
        longer = []
        for grid in partial:
            for row in fitting:
                if any(row[c] in grid[c::6] for c in range(6)):
                    continue
                if r % 2 and any(set(grid[-6 + h : -3 + h]) & set(row[h : h + 3]) for h in (0, 3)):
                    continue
                longer.append(grid + row)
        partial = longer
    return partial


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_puzzle_has_exactly_its_solution(split: str) -> None:
    for n in range(12):
        puzzle, solution = make_puzzle(random.Random(f"t{n}"), split)
        assert legal(solution)
        assert solutions(puzzle) == [solution]
        assert 12 <= 36 - puzzle.count("_") <= 18
        assert in_split(solution, split)


def test_renaming_digits_never_crosses_the_split() -> None:
    _, solution = make_puzzle(random.Random(1), "test")
    for names in ("234561", "654321", "213456"):
        renamed = solution.translate(str.maketrans("123456", names))
        assert canonical(renamed) == canonical(solution)
        assert in_split(renamed, "test")
        assert not in_split(renamed, "train")


def test_examples_depend_on_seed_and_index_alone() -> None:
    assert Sudoku(limit=3).examples() == Sudoku(limit=5).examples()[:3]
    assert Sudoku(limit=3, seed=1).examples() != Sudoku(limit=3).examples()
    assert len({e.prompt for e in Sudoku(limit=50).examples()}) == 50


def test_marks() -> None:
    benchmark = Sudoku(limit=1)
    (example,) = benchmark.examples()
    right = benchmark.grade(example, example.reference)
    assert (right.correct, right.partial) == (True, 1.0)
    wrong_last = example.reference[:-1] + ("1" if example.reference[-1] != "1" else "2")
    assert benchmark.grade(example, wrong_last).correct is False
    assert benchmark.grade(example, wrong_last).partial == pytest.approx(35 / 36)
    assert benchmark.grade(example, "").partial == 0
    assert benchmark.grade(example, example.reference + "1").correct is False
