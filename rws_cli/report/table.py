"""A sweep as a table for a paper: Markdown, CSV and LaTeX, from the records alone, published figures beside ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from rws_cli.analysis.compare import Line, by_task, compare_runs
from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.errors import UsageError, printable
from rws_cli.report.escape import csv, latex, markdown
from rws_cli.report.sheets import Sheet, rich_table, told
from rws_cli.report.terminal import signed_number, wide_console
from rws_cli.runs.folder import find_all, home, read_json, write_whole
from rws_cli.runs.records import read_samples

DEFAULT_COLUMNS = ["accuracy", "god", "reward"]
PERCENT = (
    "accuracy",
    "partial",
    "pass@",
    "win_rate",
    "overhead",
    "same_answers",
    "reversals",
    "other_sets",
    "keyword_coverage",
)
"""Columns whose figures are shares, shown in percent."""
STEERING = ("scale", "temperature", "reversals", "other_sets")


@dataclass(frozen=True)
class Cell:
    """One figure. difference: to the first line, with its interval; of a win rate and of overhead, which are relative to
    the first line themselves, the interval is their own."""

    value: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    published: Any = None


@dataclass(frozen=True)
class Grid:
    title: str
    task: str
    notes: list[str]
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]

    @property
    def has_published(self) -> list[bool]:
        return [any(cells[n].published is not None for _, cells in self.rows) for n in range(len(self.columns))]


def write_tables(paths: Sequence[Path | str]) -> str:
    """Write table.md, table.csv and table.tex into the first folder, a table for each benchmark and model; returns the
    Markdown.

    Raises UsageError if the folders hold fewer than two runs, or runs that cannot be paired.
    """
    return write_grids(read_grids(paths), home(paths[0]))


def write_grids(grids: list[Grid], target: Path) -> str:
    markdown = "\n\n".join(map(as_markdown, grids))
    write_whole(target / "table.md", markdown + "\n")
    write_whole(target / "table.csv", as_csv(grids))
    write_whole(target / "table.tex", "\n\n".join(map(as_latex, grids)) + "\n")
    return markdown


def print_tables(paths: Sequence[Path | str]) -> None:
    """Write tables as write_tables does; show them as comparisons are shown, or as Markdown where there is no terminal."""
    grids, console = read_grids(paths), wide_console()
    markdown = write_grids(grids, home(paths[0]))
    if not console.is_terminal:
        print(printable(markdown))
        return
    for grid in grids:
        console.print(Text(printable(grid.title), "bold"), rich_table(as_sheet(grid)), *map(printable, grid.notes))


def read_grids(paths: Sequence[Path | str]) -> list[Grid]:
    return [read_grid(folders) for folders in by_task(find_all(paths))]


def read_grid(folders: list[Path]) -> Grid:
    if len(folders) < 2:
        raise UsageError("One run is no table: give a sweep's folder, or two or more run folders.")
    return grid_of(read_json(folders[0] / "manifest.json")["config"], compare_runs(folders))


def grid_of(config: dict[str, Any], lines: list[Line]) -> Grid:
    """The table of a comparison, as the configuration of one of its runs wants it."""
    spec = config.get("table") or {}
    columns = list(spec.get("columns") or DEFAULT_COLUMNS)
    judges = sorted({judge for line in lines for judge in line.wins})
    named = config.get("judge", {}).get("name")
    judge = next((j for j in judges if j == named or j.startswith(f"{named} (")), next(iter(judges), None))
    published = spec.get("published") or {}
    rows = [
        (line.label, [_cell(column, line, lines[0], judge, published.get(line.label, {})) for column in columns])
        for line in lines
    ]
    seeds = sorted({seed for line in lines for seed in line.seeds})
    task = f"{config['benchmark']['name']}, {config['model']['name']}"
    notes = [
        f"{task}: {lines[0].examples} examples, seeds "
        f"{', '.join(map(str, seeds))}. In parentheses the difference to the first line, in brackets 95 % intervals."
    ]
    if judge and any(column.startswith("win_rate") for column in columns):
        notes.append(f"Win rates against the first line, judged by {judge} in both orders; a tie counts half.")
        if unjudged := sum(line.wins[judge].unjudged for line in lines if judge in line.wins):
            notes.append(f"{unjudged} answers have no verdict of this judge and are left out of its win rates.")
    if "god" in columns:
        notes.append(f"god is {DEFAULT_GOD}.")
    if spec.get("note"):
        notes.append(str(spec["note"]))
    return Grid(spec.get("title") or task, task, notes, columns, rows)


def _cell(column: str, line: Line, first: Line, judge: str | None, published: dict[str, Any]) -> Cell:
    said, is_first = published.get(column), line is first
    if column.startswith("win_rate"):
        wins = line.wins.get(judge) if judge else None
        fifth = column.partition(".")[2]
        if wins and not fifth:
            return Cell(wins.rate, None, wins.interval, said)
        if wins and wins.by_god:
            part = wins.by_god[int(fifth) - 1]
            return Cell(part.rate, None, part.interval, said)
        return Cell(published=said)
    if column == "overhead":
        value = line.values["seconds"] / first.values["seconds"] - 1  # type: ignore[operator]
        interval = _ratio_interval(line, first)
        return Cell(None if is_first else value, None, None if is_first else interval, said)
    if column == "speedup":  # without an interval: examples of a batch share its time, and runs differ in theirs
        return Cell(first.values["seconds"] / line.values["seconds"], published=said)  # type: ignore[operator]
    if column == "same_answers":
        return Cell(None if is_first else _same_answers(line, first), published=said)
    if column in line.values:
        return Cell(line.values[column], line.difference[column], line.interval[column], said)
    return Cell(_whole(column, line), published=said)


def _ratio_interval(line: Line, first: Line) -> tuple[float, float] | None:
    """The interval of the difference in seconds, as a share of the first line's."""
    interval, base = line.interval["seconds"], first.values["seconds"]
    return (interval[0] / base, interval[1] / base) if interval and base else None


def _same_answers(line: Line, first: Line) -> float:
    """The share of answers that have the tokens of the first line's run with the same seed (the first of it, if none)."""
    same, bases = [], dict(zip(first.seeds, first.folders, strict=True))
    for folder, seed in zip(line.folders, line.seeds, strict=True):
        theirs = {sample["id"]: sample["tokens"] for sample in read_samples(bases.get(seed, first.folders[0]))}
        same += [sample["tokens"] == theirs[sample["id"]] for sample in read_samples(folder) if sample["id"] in theirs]
    return sum(same) / len(same)


def _whole(column: str, line: Line) -> float | None:
    """A figure that a run has as a whole, averaged over the runs of the line."""
    found = []
    for folder in line.folders:
        metrics = read_json(folder / "metrics.json")
        if column.startswith("pass@"):
            value = (metrics["pass_at"] or {}).get(column.removeprefix("pass@"))
        elif column in STEERING:
            value = (metrics["steering"] or {}).get(column)
        else:
            value = metrics["measures"].get(column)
        found.append(value)
    defined = [value for value in found if value is not None]
    return sum(defined) / len(defined) if found and len(defined) == len(found) else None


def _factor(column: str) -> int:
    return 100 if column.startswith(PERCENT) else 1


def _header(column: str) -> str:
    return f"{column}, %" if column.startswith(PERCENT) else column


def _shown(column: str, cell: Cell) -> str:
    if cell.value is None:
        return "–"
    factor, form = _factor(column), ",.1f" if column.startswith(PERCENT) else ",.2f"
    value, within = format(factor * cell.value, form), ""
    if cell.interval:
        written = format if cell.difference is None else signed_number
        within = "[" + ", ".join(written(factor * bound, form) for bound in cell.interval) + "]"
    if cell.difference is None:
        return f"{value} {within}".strip()
    return f"{value} ({signed_number(factor * cell.difference, form)} {within})".replace(" )", ")")


def _published(cell: Cell) -> str:
    return "–" if cell.published is None else str(cell.published)


def as_sheet(grid: Grid) -> Sheet:
    """The figures as text."""
    sheet = Sheet(
        ["", *(name for n, column in enumerate(grid.columns) for name in _headers(grid, n, column))], title=grid.title
    )
    for label, cells in grid.rows:
        row = [label]
        for n, (column, cell) in enumerate(zip(grid.columns, cells, strict=True)):
            row.append(told(_shown(column, cell), None if cell.difference is None else cell.interval))
            if grid.has_published[n]:
                row.append(_published(cell))
        sheet.add(*row)
    return sheet


def _headers(grid: Grid, n: int, column: str) -> list[str]:
    return [_header(column), "published"] if grid.has_published[n] else [_header(column)]


def as_markdown(grid: Grid) -> str:
    sheet = as_sheet(grid)
    lines = [f"**{markdown(grid.title)}**", "", bar(sheet.headers), bar(["---", *["--:"] * (len(sheet.headers) - 1)])]
    return "\n".join([*lines, *map(bar, sheet.rows), "", *map(markdown, grid.notes)])


def bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown, cells)) + " |"


def as_csv(grids: list[Grid]) -> str:
    """One line a row; shares as numbers in [0, 1], published figures as the paper has them. Of several tables each line
    says which task it is of."""
    rows = []
    for grid in grids:
        for label, cells in grid.rows:
            row: dict[str, Any] = ({"task": grid.task} if len(grids) > 1 else {}) | {"label": label}
            for column, cell in zip(grid.columns, cells, strict=True):
                low, high = cell.interval or (None, None)
                of = f"{column}_difference" if cell.difference is not None else column
                row |= {column: cell.value, f"{column}_difference": cell.difference}
                row |= {f"{of}_low": low, f"{of}_high": high, f"{column}_published": cell.published}
            rows.append(row)
    return csv(rows, drop_empty=True)


def as_latex(grid: Grid) -> str:
    """A booktabs table; its caption is the title, if it has one of its own, with the notes."""
    sheet = as_sheet(grid)
    title = [] if grid.title == grid.task else [grid.title.rstrip(".") + "."]
    notes = [re.sub("^god is", "GOD is", note) for note in grid.notes]
    headers = ["GOD" if header == "god" else header for header in sheet.headers]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(' '.join([*title, *notes]))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, headers)) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex, row)) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)
