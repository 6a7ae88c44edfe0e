"""Comparisons as tables: on a terminal, and on the page of a report."""

from pathlib import Path

from rws_cli.analysis.compare import Line
from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.analysis.run import MEASURES
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
    f"GOD is {DEFAULT_GOD}"
)


def comparison_sheets(lines: list[Line]) -> list[Sheet]:
    """Tables that fit a terminal of 80 columns: how good the answers are; in which order they came and at what cost an
    example, in passes of the model, calls of the reward and seconds; each text measure; and what judges said."""
    quality = Sheet(["sampler", "seeds", "accuracy", "difference", "p", "partial", "reward"], title="Quality")
    process = Sheet(
        ["sampler", "GOD", "difference", "passes", "calls", "seconds"], title="Order and cost of an example"
    )
    for line in lines:
        cells, seeds = line.cells, ",".join(map(str, line.seeds))
        accuracy = [_mean(line, "accuracy", ".1%"), signed(cells["accuracy"], 100, ".1f"), number(line.p, ".3f")]
        quality.add(line.label, seeds, *accuracy, _mean(line, "partial", ".1%"), _mean(line, "reward", ".3f"))
        god = [_mean(line, "god", ".2f"), signed(cells["god"], 1, ".2f")]
        passes, calls = _mean(line, "mdm_passes", ".1f"), _mean(line, "reward_calls", ".1f")
        process.add(line.label, *god, passes, calls, _mean(line, "seconds", ".3f"))
    sheets = [quality, process]
    for name in [name for name in lines[0].cells if name not in MEASURES]:
        sheet = Sheet(["sampler", name, "difference"])
        for line in lines:
            sheet.add(line.label, _mean(line, name, ",.3f"), signed(line.cells[name], 1, ".3f"))
        sheets.append(sheet)
    return [*sheets, *(sheet for sheet in _win_sheets(lines) if sheet.rows)]


def _mean(line: Line, name: str, form: str) -> str:
    return number(line.cells[name].value, form)


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
