"""Tasks about short lists and small grids: how a question is generated, and the rule that grades a completion.

Generated rows have the fields of the published data. Rules and quirks are those of the
published graders (arXiv 2510.04767): a list starts after the last "[", its items are separated by commas, and so on.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from rws_cli.benchmarks.base import Row

FIRST_NAMES = [
    "Ada", "Ben", "Clara", "Dan", "Ella", "Finn", "Greta", "Hugo", "Iris", "Jack",
    "Kate", "Liam", "Mona", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor",
]  # fmt: skip
LAST_NAMES = [
    "Adler", "Berg", "Costa", "Dunn", "Evans", "Frost", "Garcia", "Hale", "Ito",
    "Jensen", "Klein", "Lopez", "Moore", "Novak", "Ortiz",
]  # fmt: skip
NAMES = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
EMPTY_CELLS = 4
LINE = "People are waiting in line, in this order:\n{context}\n"
ONLY = "Answer only with the resulting list, written in the same way."


@dataclass(frozen=True)
class Task:
    """template: of generated questions, with the names of a row's input. make: a row from random numbers and a length.
    lengths: of lists, one after the other. read: what a completion has to say, None if nothing; with True: only if it is
    written exactly as asked. right: whether that solves the row with this answer. extractor: what `read` is called."""

    template: str
    make: Callable[[Random, int], Row]
    lengths: tuple[int, ...]
    read: Callable[[str, bool], Any]
    right: Callable[[Any, Any], bool]
    extractor: str


# --- lists ---------------------------------------------------------------------------------------------------------


def written_list(items: list[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def read_list(text: str, strict: bool = False) -> list[str] | None:
    """The items of the last list in a text. Without `strict`, brackets and quotation marks may be missing; with it, each
    item is in quotation marks, and ", " separates them."""
    _, opened, inner = text.rpartition("[")
    inner, closed, _ = inner.partition("]")
    if not strict:
        return [item.strip('" ') for item in inner.split(",") if item.strip()]
    items = inner.split(", ")
    quoted = all(item[:1] == item[-1:] == '"' and '"' not in item[1:-1] for item in items)
    return [item[1:-1] for item in items] if opened and closed and quoted else None


def _same(items: list[str], answer: str) -> bool:
    return items == read_list(answer)


def _shuffled(items: list[str], answer: Row) -> bool:
    return sorted(items) == sorted(answer["input"]) and items != answer["input"]


def _inserted(items: list[str], answer: Row) -> bool:
    """The list without the first place of the new item is the old list."""
    if answer["word"] not in items:
        return False
    place = items.index(answer["word"])
    return items[:place] + items[place + 1 :] == answer["input"]


def _removed(items: list[str], answer: Row) -> bool:
    """The old list without the first place of the only item that is missing is the new list."""
    before = answer["input"]
    missing = set(before) - set(items)
    if len(items) != len(before) - 1 or len(missing) != 1:
        return False
    place = before.index(missing.pop())
    return items == before[:place] + before[place + 1 :]


def _replaced(items: list[str], answer: Row) -> bool:
    """The old list with the new item, at the first place where the new list has it."""
    before, word = answer["input"], answer["word"]
    if len(items) != len(before) or word not in items:
        return False
    place = items.index(word)
    return items == [*before[:place], word, *before[place + 1 :]]


def _row(names: dict[str, Any], answer: Any) -> Row:
    return {"input": names, "answer": answer}


def _ordered(change: Callable[[list[str]], list[str]]) -> Callable[[Random, int], Row]:
    """Questions whose answer is a list that follows from the given one."""

    def make(rng: Random, length: int) -> Row:
        line = rng.sample(NAMES, length)
        return _row({"context": written_list(line)}, written_list(change(line)))

    return make


def _shuffle(rng: Random, length: int) -> Row:
    line = rng.sample(NAMES, length)
    example = line
    while example == line:
        example = rng.sample(line, length)
    return _row({"context": written_list(line)}, {"input": line, "example": written_list(example)})


def _changed(change: str, indexed: bool) -> Callable[[Random, int], Row]:
    """Questions about one person. change: "insert", "remove" or "replace". indexed: whether the question says where."""

    def make(rng: Random, length: int) -> Row:
        *line, word = rng.sample(NAMES, length + 1)
        place = rng.randrange(length + (change == "insert"))
        after = line[:place] + ([] if change == "remove" else [word]) + line[place + (change != "insert") :]
        names: dict[str, Any] = {"context": written_list(line)}
        more = {} if change == "remove" else {"word": word}
        if indexed:
            return _row(names | more | {"index": place}, written_list(after))
        return _row(names | more, {"input": line, **more, "example": written_list(after)})

    return make


# --- grids ---------------------------------------------------------------------------------------------------------


def read_sudoku(text: str, strict: bool = False) -> list[list[int]] | None:
    """The 4x4 grid in a text. Without `strict`, lines without exactly four digits are skipped."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    if strict:
        exact = len(lines) == 4 and all(re.fullmatch(r"\d{4}", line) for line in lines)
        return [[int(digit) for digit in line] for line in lines] if exact else None
    rows = [[int(digit) for digit in re.findall(r"\d", line)] for line in lines]
    rows = [row for row in rows if len(row) == 4]
    return rows if len(rows) == 4 else None


def _solved(grid: list[list[int]], answer: str) -> bool:
    return grid == read_sudoku(answer, strict=True)


def read_rows(text: str, strict: bool = False) -> list[list[str]]:
    """The lines of a text as rows of cells; a Latin square has no stricter form."""
    return [[cell.strip() for cell in line.split(",")] for line in text.split("\n") if line.strip()]


def _latin(rows: list[list[str]], answer: Row) -> bool:
    """The first rows that hold just the symbols, as many as there are symbols, hold them in each column too."""
    symbols = set(answer["symbols"])
    square = [row for row in rows if set(row) == symbols][: len(symbols)]
    return len(square) == len(symbols) and all(set(column) == symbols for column in zip(*square, strict=False))


def _latin_square(rng: Random, size: int) -> Row:
    symbols = rng.sample(SYMBOLS, size)
    rows, columns = rng.sample(range(size), size), rng.sample(range(size), size)
    example = "\n".join(",".join(symbols[(row + column) % size] for column in columns) for row in rows)
    names = {"size": size, "symbols": "[" + ", ".join(symbols) + "]"}
    return _row(names, {"symbols": symbols, "example": example})


def _completions(grid: str) -> Iterator[str]:
    """All solutions of a 4x4 sudoku, 16 digits with 0 for an empty cell."""
    cell = grid.find("0")
    if cell < 0:
        yield grid
        return
    row, column = divmod(cell, 4)
    peers = {
        grid[n] for n in range(16)
        if n // 4 == row or n % 4 == column or (n // 8 == row // 2 and n % 4 // 2 == column // 2)
    }  # fmt: skip
    for digit in "1234":
        if digit not in peers:
            yield from _completions(grid[:cell] + digit + grid[cell + 1 :])


def _sudoku(rng: Random, length: int) -> Row:
    """A sudoku with one solution."""
    while True:
        top = rng.sample("1234", 4)
        solutions = list(_completions("".join(top) + "0" * 12))
        solution = rng.choice(solutions)
        empty = rng.sample(range(16), EMPTY_CELLS)
        puzzle = "".join("0" if n in empty else digit for n, digit in enumerate(solution))
        if len(list(_completions(puzzle))) == 1:
            return _row({"sudoku": _lines(puzzle)}, _lines(solution))


def _lines(grid: str) -> str:
    return "\n".join(grid[n : n + 4] for n in range(0, 16, 4))


def _line_tasks(lengths: tuple[int, ...]) -> dict[str, Task]:
    counted = "position {index}, counted from 0"

    def task(what: str, make: Callable[[Random, int], Row], right: Callable[[Any, Any], bool]) -> Task:
        return Task(f"{LINE}{what} {ONLY}", make, lengths, read_list, right, "list")

    return {
        "copy": task("Copy the list.", _ordered(list), _same),
        "sort": task("Sort it by the whole names.", _ordered(sorted), _same),
        "reverse": task("Reverse it.", _ordered(lambda line: line[::-1]), _same),
        "shuffle": task("Put them into any other order.", _shuffle, _shuffled),
        "insert_index": task('"{word}" joins at ' + f"{counted}.", _changed("insert", True), _same),
        "insert_random": task('"{word}" joins at a place of your choice.', _changed("insert", False), _inserted),
        "remove_index": task(f"The person at {counted}, leaves.", _changed("remove", True), _same),
        "remove_random": task("One of them, whom you choose, leaves.", _changed("remove", False), _removed),
        "replace_index": task(
            '"{word}" takes the place of the person at ' + f"{counted}.", _changed("replace", True), _same
        ),
        "replace_random": task(
            '"{word}" takes the place of someone whom you choose.', _changed("replace", False), _replaced
        ),
    }


TASKS = {
    **{f"waiting_line/{name}": task for name, task in _line_tasks((3, 4, 5, 6)).items()},
    **{f"waiting_line_n15/{name}": task for name, task in _line_tasks((15,)).items()},
    "puzzle/latin_square_n4": Task(
        "Write a Latin square of size {size} with the symbols {symbols}: {size} lines of {size} symbols, separated by commas. "
        "Answer only with these lines.",
        _latin_square, (4,), read_rows, _latin, "rows",
    ),
    "puzzle/sudoku_n4_12": Task(
        "Fill in the zeros of this 4x4 sudoku, so that each row, each column and each 2x2 box has 1, 2, 3 and 4.\n{sudoku}\n"
        "Answer only with the four lines.",
        _sudoku, (4,), read_sudoku, _solved, "grid",
    ),
}  # fmt: skip
"""The published names of the tasks that are graded by their text alone."""


def generated(name: str, seed: int, number: int, shots: int) -> Row:
    """A row of a task, with solved examples as its input's `icl_examples`; determined by the arguments alone."""
    task, rng = TASKS[name], Random(f"{name} {seed} {number}")
    row = task.make(rng, task.lengths[number % len(task.lengths)])
    row["input"]["icl_examples"] = [task.make(rng, rng.choice(task.lengths)) for _ in range(shots)]
    return row
