"""Comparisons as tables, on a terminal and in a report."""

from pathlib import Path

from rws_cli.analysis.compare import Line, measures_of
from rws_cli.analysis.measures import GOD_IN_WORDS, MEASURES
from rws_cli.report.sheets import Sheet, rich_table, signed
from rws_cli.report.terminal import number, wide_console
from rws_cli.runs.reading import by_task, compare_runs


def print_comparisons(folders: list[Path]) -> None:
    """The comparison of some runs, one for each benchmark and model of which there are several.

    Raises what compare_runs does.
    """
    several = [group for group in by_task(folders) if len(group) > 1] or [folders]
    console = wide_console()
    for group in several:
        lines = compare_runs(group)
        if len(several) > 1:
            console.print(f"{lines[0].runs[0].task}:", markup=False)
        console.print(HOW_COMPARED.format(lines[0].examples))
        for sheet in comparison_sheets(lines):
            console.print(rich_table(sheet))


HOW_COMPARED = (
    "{} examples, paired; differences to the first line with 95 % intervals, and p after Holm's correction; "
    f"{GOD_IN_WORDS}"
)


def comparison_sheets(lines: list[Line]) -> list[Sheet]:
    """Tables that fit 80 columns: quality; decoding order and cost per example; each text measure; judges."""
    names = [MEASURES[name].display_name for name in ("accuracy", "partial", "reward", "god")]
    accuracy, partial, reward, god = names
    costs = [MEASURES[name].display_name for name in COST]
    quality = Sheet(["sampler", "seed(s)", accuracy, "difference", "p", partial, reward], title="Quality")
    process = Sheet(["sampler", god, "difference", *costs], title="Decoding order and cost per example")
    for line in lines:
        cells, seeds = line.cells, ",".join(map(str, line.seeds))
        correct = [_mean(line, "accuracy", ".1%"), signed(cells["accuracy"], 100, ".1f"), p_value(line.p)]
        quality.add(line.label, seeds, *correct, _mean(line, "partial", ".1%"), _mean(line, "reward", ".3f"))
        order = [_mean(line, "god", ".2f"), signed(cells["god"], 1, ".2f")]
        process.add(line.label, *order, *(_mean(line, name, form) for name, form in COST.items()))
    sheets = [quality, process]
    for measure in measures_of([run for line in lines for run in line.runs]).values():
        if measure.name in MEASURES:
            continue
        factor, form = (100, ",.1f") if measure.percent else (1, ",.3f")
        sheet = Sheet(["sampler", measure.heading, "difference"])
        for line in lines:
            cell = line.cells[measure.name]
            value = None if cell.value is None else factor * cell.value
            sheet.add(line.label, number(value, form), signed(cell, factor, form))
        sheets.append(sheet)
    return [*sheets, *(sheet for sheet in _win_sheets(lines) if sheet.rows)]


COST = {"mdm_passes": ".1f", "reward_calls": ".1f", "seconds": ".3f"}
"""The columns of cost in a comparison, and their formats."""


def _mean(line: Line, name: str, form: str) -> str:
    return number(line.cells[name].value, form)


def p_value(p: float | None) -> str:
    """A p-value with three digits; smaller ones are shown as <0.001."""
    return "<0.001" if p is not None and p < 0.0005 else number(p, ".3f")


def _win_sheets(lines: list[Line]) -> list[Sheet]:
    """Win rates against the first line, and by fifths of GOD, lowest first."""
    wins = Sheet(["sampler", "judge", "win rate", "won", "tied", "lost", "by order", "unread"], words=2)
    fifths = Sheet(["sampler", "judge", "GOD 1/5", "2/5", "3/5", "4/5", "5/5"], words=2)
    for line in lines:
        for judge, w in line.wins.items():
            low, high = w.interval
            counts = (w.wins, w.ties, w.losses, w.disagreements, w.unreadable)
            answers = w.wins + w.ties + w.losses + w.unreadable
            partial = f", {answers} of {answers + w.unjudged} judged" if w.unjudged else ""
            wins.add(line.label, judge + partial, f"{w.rate:.1%} [{low:.1%}, {high:.1%}]", *map(str, counts))
            if w.by_god:
                fifths.add(line.label, judge, *(f"{part.rate:.1%}" for part in w.by_god))
    return [wins, fifths]
