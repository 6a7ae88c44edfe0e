"""Tables of text cells, for a terminal and for a page."""

from dataclasses import dataclass, field

from rich import box
from rich.table import Table
from rich.text import Text

from rws_cli.analysis.compare import Cell
from rws_cli.analysis.statistics import Interval
from rws_cli.errors import printable
from rws_cli.report.terminal import signed_number


class Strong(str):
    """A cell to emphasize: a difference whose interval excludes zero."""


def strong(text: str, interval: Interval | None) -> str:
    """A cell with a difference, emphasized if its interval excludes zero."""
    return Strong(text) if interval and (interval[0] > 0 or interval[1] < 0) else text


def signed(cell: Cell, factor: float, form: str) -> str:
    """A difference with its interval."""
    if cell.difference is None:
        return "–"
    difference, *interval = (signed_number(factor * n, form) for n in (cell.difference, *(cell.interval or ())))
    return strong(f"{difference} [{', '.join(interval)}]", cell.interval) if interval else difference


@dataclass
class Sheet:
    """One table. words: the number of leading text columns; the others hold numbers and are right-aligned. title:
    above it, on a page."""

    headers: list[str]
    rows: list[list[str]] = field(default_factory=list)
    words: int = 1
    title: str = ""

    def add(self, *cells: str) -> None:
        self.rows.append(list(cells))


def rich_table(sheet: Sheet) -> Table:
    """A sheet for a terminal. Headers wider than their column are broken into one line per word."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for n, header in enumerate(sheet.headers):
        wider = n >= sheet.words and all(len(header) > len(row[n]) for row in sheet.rows)
        table.add_column(
            printable(header).replace(" ", "\n") if wider else printable(header),
            justify="left" if n < sheet.words else "right",
            overflow="fold",
            no_wrap=header == "difference" and len(sheet.headers) > 3,
        )
    for row in sheet.rows:
        table.add_row(*(Text(printable(cell), "bold" if isinstance(cell, Strong) else "") for cell in row))
    return table
