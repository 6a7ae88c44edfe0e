"""6x6 sudoku with boxes of 2 rows by 3 columns and exactly one solution.

Rows are a to f, columns 1 to 6. The prompt names every cell ("sudoku a1=5 a2=_ ..."), so that each cell of the answer is
a fixed distance after its name: the bundled model has only rotary position embeddings and reads relative distances. The
answer is the whole grid, row by row, as 36 digits.

Train and test never share a grid, not even up to renaming digits: the split is decided by a hash of the solution with
its digits renamed in order of first appearance.
"""

import random

from rws_cli.benchmarks.base import Example, Generated, Grade, Split, held_out
from rws_cli.models.canvas import Piece
from rws_cli.part import part, setting

SIZE = 6
CELLS = SIZE * SIZE
BLANK = "_"
NAMES = [f"{row}{column}" for row in "abcdef" for column in range(1, 7)]


def _units(cell: int) -> set[tuple[str, int]]:
    """The row, the column and the box of a cell."""
    row, column = divmod(cell, SIZE)
    return {("row", row), ("column", column), ("box", row // 2 * 2 + column // 3)}


PEERS = [[other for other in range(CELLS) if other != cell and _units(cell) & _units(other)] for cell in range(CELLS)]
ALL_DIGITS = 0b111111


def _candidates(grid: list[int], cell: int) -> int:
    """Bit mask of the digits that are not in any peer of an empty `cell`; digits are bits, 0 is empty."""
    taken = 0
    for peer in PEERS[cell]:
        taken |= grid[peer]
    return ALL_DIGITS & ~taken


def _digits(mask: int) -> list[int]:
    return [1 << d for d in range(SIZE) if mask >> d & 1]


def _fill(grid: list[int], rng: random.Random | None = None) -> bool:
    """Complete `grid` in place (fewest candidates first, digits shuffled by `rng`); False if it has no solution."""
    empty = [cell for cell in range(CELLS) if not grid[cell]]
    if not empty:
        return True
    best, best_options = -1, ALL_DIGITS
    for cell in empty:
        options = _candidates(grid, cell)
        if best < 0 or options.bit_count() < best_options.bit_count():
            best, best_options = cell, options
            if options.bit_count() <= 1:  # hardly any cell has fewer
                break
    digits = _digits(best_options)
    if rng:
        rng.shuffle(digits)
    for digit in digits:
        trial = grid[:]
        trial[best] = digit
        if _fill(trial, rng):
            grid[:] = trial
            return True
    return False


def _forced(grid: list[int], cell: int) -> bool:
    """Whether a puzzle with one solution still has only one after emptying `cell`."""
    others = _candidates(grid, cell) & ~grid[cell]
    return not any(_fill([*grid[:cell], digit, *grid[cell + 1 :]]) for digit in _digits(others))


def canonical(solution: str) -> str:
    """The grid with its digits renamed 1, 2, … in order of first appearance."""
    names = {digit: str(n + 1) for n, digit in enumerate(dict.fromkeys(solution))}
    return "".join(names[digit] for digit in solution)


def in_split(solution: str, split: Split) -> bool:
    return held_out("sudoku6 " + canonical(solution)) == (split == "test")


def make_puzzle(rng: random.Random, split: Split, clues: tuple[int, int] = (12, 18)) -> tuple[str, str]:
    """A puzzle with one solution, and that solution, as strings of 36 characters ("_" for an empty cell).

    Cells of a random grid are emptied in random order while the solution stays unique, down to a number of clues drawn
    uniformly from `clues`, both ends included (a few grids end with more, when no other cell can be emptied).
    """
    while True:
        grid = [0] * CELLS
        _fill(grid, rng)
        solution = _text(grid)
        if in_split(solution, split):
            break
    target = rng.randint(*clues)
    remaining = CELLS
    for cell in rng.sample(range(CELLS), CELLS):
        if remaining == target:
            break
        if _forced(grid, cell):
            grid[cell] = 0
            remaining -= 1
    return _text(grid), solution


def _text(grid: list[int]) -> str:
    return "".join(str(digit.bit_length()) if digit else BLANK for digit in grid)


def prompt_of(puzzle: str) -> str:
    return "sudoku " + " ".join(f"{name}={value}" for name, value in zip(NAMES, puzzle, strict=True))


@part
class Sudoku(Generated):
    """Correct if every cell is; `partial` is the share of the 36 cells that are correct."""

    clues: str = setting(
        "where the clues are: in the prompt, or in their places in the completion (canvas)",
        default="prompt",
        choices=("prompt", "canvas"),
    )

    def make(self, rng: random.Random, split: Split) -> tuple[str, str]:
        puzzle, solution = make_puzzle(rng, split)
        return prompt_of(puzzle), solution

    def canvas(self, prompt: str) -> tuple[str, tuple[Piece, ...]]:
        """With clues on the canvas, the prompt is that of an empty grid."""
        if self.clues == "prompt":
            return prompt, ()
        cells = [cell.partition("=")[2] for cell in prompt.split()[1:]]
        return prompt_of(BLANK * CELLS), tuple(1 if cell == BLANK else cell for cell in cells)

    def grade(self, example: Example, completion: str) -> Grade:
        grid = completion.strip()[:CELLS]
        hits = sum(a == b for a, b in zip(grid, example.reference, strict=False))
        return Grade(
            correct=completion.strip() == example.reference, partial=hits / CELLS, extracted=grid, extractor="grid"
        )
