"""4x4 sudoku with boxes of 2x2, as published: CSV of Puzzle and Solution, or JSON lines of input and output."""

import re
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part

CELLS = 16
TAG = re.compile(r"<[^<>]*>|\\[A-Za-z]+(?:\{[a-z]*\})?")
LABEL = re.compile(r"^.*:|^\W*row\W*\d+\W+|^\s*\d+[.)]\s+", re.IGNORECASE)
"""What may stand before a row: "Row 1:", "Row 1", "1."."""
UNITS = [
    *[[4 * r + c for c in range(4)] for r in range(4)],
    *[[4 * r + c for r in range(4)] for c in range(4)],
    *[[4 * (b // 2 * 2 + n // 2) + b % 2 * 2 + n % 2 for n in range(4)] for b in range(4)],
]


def grid(value: Any) -> str:
    """16 digits, or the number that a spreadsheet made of them without its leading zeros."""
    written = fields.answer(value)
    if len(re.sub(r"\D", "", written)) != CELLS and not re.fullmatch(r"\d{1,15}", written):
        raise ValueError(f"is {written!r}, not 16 digits")
    return re.sub(r"\D", "", written).zfill(CELLS)


@part
class Sudoku4(DataBenchmark):
    """Right if the grid keeps the clues and fills every row, column and box with 1 to 4, for a puzzle may have several
    solutions; else `partial` is the share of cells that agree with the published one."""

    version = 2
    needed = {"Puzzle|input": grid, "Solution|output": grid}

    def names(self, row: Row) -> dict[str, Any]:
        return {"puzzle": _lines(row["Puzzle"])}

    def reference(self, row: Row) -> str:
        return _lines(row["Solution"])

    def grade(self, example: Example, answer: str) -> Grade:
        puzzle, grid = example.row["Puzzle"], read_grid(answer)
        keeps = len(grid) == CELLS and all(clue in ("0", digit) for clue, digit in zip(puzzle, grid, strict=True))
        if keeps and all({grid[cell] for cell in unit} == set("1234") for unit in UNITS):
            return Grade(True, 1.0, grid, "grid")
        hits = sum(a == b for a, b in zip(grid, example.row["Solution"], strict=False))
        return Grade(False, min(hits, CELLS - 1) / CELLS, grid, "grid")


def _lines(grid: str) -> str:
    return "\n".join(grid[n : n + 4] for n in range(0, CELLS, 4))


def read_grid(answer: str) -> str:
    """The first 16 digits without an empty cell, so that a repeated puzzle is passed over; else the first 16 at all.

    Labels of rows and tags are no digits of a grid. In a line of words only numbers of 4 or 16 digits are.
    """
    digits = ""
    for line in TAG.sub(" ", answer).splitlines():
        line = LABEL.sub("", line)
        cells = re.findall(r"\b(?:[0-9]{4}|[0-9]{16})\b", line) if re.search(r"[^\W\d_]", line) else [line]
        digits += re.sub(r"[^0-9]", "", "".join(cells))
    grids = [digits[n : n + CELLS] for n in range(0, len(digits), CELLS)]
    full = [grid for grid in grids if len(grid) == CELLS and "0" not in grid]
    return [*full, *grids, ""][0]
