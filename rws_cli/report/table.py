"""A sweep as a table for a paper: Markdown, CSV and LaTeX, with published numbers next to ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from rws_cli.analysis.compare import Cell
from rws_cli.analysis.measure import Measure
from rws_cli.analysis.table import Grid, grid_of
from rws_cli.errors import UsageError, printable
from rws_cli.files import write_whole
from rws_cli.report.escape import bounds, csv, latex, markdown, markdown_table
from rws_cli.report.sheets import Sheet, rich_table, signed, strong
from rws_cli.report.terminal import wide_console
from rws_cli.runs.folder import output_dir
from rws_cli.runs.reading import by_task, compare_runs


def write_tables(paths: Sequence[Path | str]) -> str:
    """Write table.md, table.csv and table.tex into the first folder, a table for each benchmark and model; returns the
    Markdown.

    Raises UsageError if the folders hold one run without published results, or runs that cannot be paired.
    """
    return write_grids(read_grids(paths), output_dir(paths[0]))


def write_grids(grids: list[Grid], target: Path) -> str:
    markdown = "\n\n".join(map(as_markdown, grids))
    write_whole(target / "table.md", markdown + "\n")
    write_whole(target / "table.csv", as_csv(grids))
    write_whole(target / "table.tex", "\n\n".join(map(as_latex, grids)) + "\n")
    return markdown


def print_tables(paths: Sequence[Path | str]) -> None:
    """Write tables as write_tables does, and print them: formatted on a terminal, else as Markdown."""
    grids, console = read_grids(paths), wide_console()
    markdown = write_grids(grids, output_dir(paths[0]))
    if not console.is_terminal:
        print(printable(markdown))
        return
    for grid in grids:
        console.print(Text(printable(grid.title), "bold"), rich_table(as_sheet(grid)), *map(printable, grid.notes))


def read_grids(paths: Sequence[Path | str]) -> list[Grid]:
    grids = []
    for group in by_task(paths):
        lines = compare_runs(group)
        if len(group) < 2 and not (lines[0].runs[0].config.get("table") or {}).get("published"):
            raise UsageError(
                "A table needs two runs, or one whose configuration has published results: give a sweep's folder, or two "
                "or more run folders."
            )
        grids.append(grid_of(lines))
    return grids


def format_cell(measure: Measure, cell: Cell) -> str:
    """A value with its difference or its interval."""
    if cell.value is None:
        return "–"
    factor, form = (100, ",.1f") if measure.percent else (1, ",.2f")
    value = format(factor * cell.value, form)
    if cell.difference is not None:
        return strong(f"{value} ({signed(cell, factor, form)})", cell.interval)
    within = ", ".join(format(factor * bound, form) for bound in cell.interval or ())
    return f"{value} [{within}]" if within else value


def as_sheet(grid: Grid) -> Sheet:
    """The table's cells as text."""
    headers, published = [""], grid.has_published
    for column, has in zip(grid.columns, published, strict=True):
        headers += [column.heading, *(["published"] if has else [])]
    sheet = Sheet(headers, title=grid.title)
    for label, cells in grid.rows:
        row = [label]
        for column, cell, has in zip(grid.columns, cells, published, strict=True):
            row.append(format_cell(column, cell))
            row += ["–" if cell.published is None else str(cell.published)] if has else []
        sheet.add(*row)
    return sheet


def as_markdown(grid: Grid) -> str:
    sheet = as_sheet(grid)
    table = markdown_table(sheet.headers, sheet.rows, words=1)
    return "\n".join([f"**{markdown(grid.title)}**", "", table, "", *map(markdown, grid.notes)])


def as_csv(grids: list[Grid]) -> str:
    """One line per row. Shares are numbers in [0, 1], published numbers are as the paper has them. With several
    tables, each line names its task."""
    rows = []
    for grid in grids:
        for label, cells in grid.rows:
            row: dict[str, Any] = ({"task": grid.task} if len(grids) > 1 else {}) | {"label": label}
            for column, cell in zip(grid.columns, cells, strict=True):
                difference = f"{column.name}_difference"
                of = difference if cell.difference is not None else column.name
                row |= {column.name: cell.value, difference: cell.difference} | bounds(of, cell.interval)
                row |= {f"{column.name}_published": cell.published}
            rows.append(row)
    return csv(rows, drop_empty=True)


def as_latex(grid: Grid) -> str:
    """A booktabs table. Its caption is the title, if there is one, with the notes."""
    sheet = as_sheet(grid)
    title = [] if grid.title == grid.task else [grid.title.rstrip(".") + "."]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(' '.join([*title, *grid.notes]))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.headers) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, sheet.headers)) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex, row)) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)
