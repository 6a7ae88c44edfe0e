"""4x4 sudokus: the ways to set a grid."""

from __future__ import annotations

import pytest
from support import grade_of

from rws_cli.benchmarks.sudoku4 import Sudoku4

PUZZLE, SOLUTION = ["0200", "4302", "3401", "0004"], ["1243", "4312", "3421", "2134"]
ROW = {"input": "\n".join(PUZZLE), "output": "\n".join(SOLUTION)}
LAYOUTS = {
    "rows": lambda rows: "\n".join(rows),
    "one line": lambda rows: "".join(rows),
    "Row 1:": lambda rows: "\n".join(f"Row {n}: {row}" for n, row in enumerate(rows, 1)),
    "Row 1": lambda rows: "\n".join(f"Row {n} {row}" for n, row in enumerate(rows, 1)),
    "bold labels": lambda rows: "\n".join(f"**Row {n}:** {' '.join(row)}" for n, row in enumerate(rows, 1)),
    "1.": lambda rows: "\n".join(f"{n}. {row}" for n, row in enumerate(rows, 1)),
    "1)": lambda rows: "\n".join(f"{n}) {' '.join(row)}" for n, row in enumerate(rows, 1)),
    "lists": lambda rows: "[[" + "],[".join(",".join(row) for row in rows) + "]]",
    "table": lambda rows: "\n".join(f"| {' | '.join(row)} |" for row in rows),
    "fence": lambda rows: "```\n" + "\n".join(rows) + "\n```",
    "tags": lambda rows: "<answer>" + "".join(rows) + "</answer>",
    "matrix": lambda rows: "\\begin{pmatrix}" + " \\\\ ".join(" & ".join(row) for row in rows) + "\\end{pmatrix}",
    "words": lambda rows: "The 4x4 grid\n" + "\n".join(rows) + "\nEach row has 1, 2, 3 and 4.",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_grid_is_read_however_it_is_set(layout: str) -> None:
    write = LAYOUTS[layout]
    assert grade_of(Sudoku4(), ROW, write(SOLUTION)).extracted == "".join(SOLUTION)
    assert grade_of(Sudoku4(), ROW, write(SOLUTION)).correct
    assert not grade_of(Sudoku4(), ROW, write([*SOLUTION[:3], "2143"])).correct


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_repeated_puzzle_is_passed_over(layout: str) -> None:
    write = LAYOUTS[layout]
    assert grade_of(Sudoku4(), ROW, f"{write(PUZZLE)}\n\n{write(SOLUTION)}").correct
    assert not grade_of(Sudoku4(), ROW, write(PUZZLE)).correct
    # Of two full grids the first is the answer.
    wrong = write([*SOLUTION[:3], "2143"])
    assert not grade_of(Sudoku4(), ROW, f"{wrong}\n\n{write(SOLUTION)}").correct
