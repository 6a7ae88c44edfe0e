"""The table of a comparison as in a paper: the columns that the configuration lists, with published numbers."""

from dataclasses import dataclass, replace

from rws_cli.analysis.compare import Cell, Line, opponent
from rws_cli.analysis.measure import Measure
from rws_cli.analysis.measures import GOD_IN_WORDS, MEASURES, measure
from rws_cli.analysis.statistics import mean

DEFAULT_COLUMNS = ["accuracy", "god", "reward"]


@dataclass(frozen=True)
class Grid:
    title: str
    task: str
    notes: list[str]
    columns: list[Measure]
    rows: list[tuple[str, list[Cell]]]

    @property
    def has_published(self) -> list[bool]:
        return [any(cells[n].published is not None for _, cells in self.rows) for n in range(len(self.columns))]


def grid_of(lines: list[Line]) -> Grid:
    """The table of a comparison, with the columns of its first run's configuration."""
    config, task = lines[0].runs[0].config, lines[0].runs[0].task
    spec = config.get("table") or {}
    columns = list(spec.get("columns") or DEFAULT_COLUMNS)
    judges = sorted({judge for line in lines for judge in line.wins})
    named = config.get("judge", {}).get("name")
    judge = next((j for j in judges if j == named or j.startswith(f"{named} (")), next(iter(judges), None))
    published = spec.get("published") or {}
    rows = []
    for line in lines:
        theirs = published.get(line.label, {})
        cells = [replace(_cell(column, line, lines[0], judge), published=theirs.get(column)) for column in columns]
        rows.append((line.label, cells))
    seeds = sorted({seed for line in lines for seed in line.seeds})
    notes = [
        f"{task}: {lines[0].examples} examples, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}."
    ]
    if len(lines) > 1:
        notes[0] += " In parentheses the difference to the first line, in brackets 95 % intervals."
    if judge and any(column.startswith("win_rate") for column in columns):
        notes.append(f"Win rates against the first line, judged by {judge} in both orders; a tie counts half.")
        if unjudged := sum(line.wins[judge].unjudged for line in lines if judge in line.wins):
            notes.append(f"{unjudged} answers have no verdict of this judge and are left out of its win rates.")
    if "god" in columns:
        notes.append(f"{GOD_IN_WORDS}.")
    if spec.get("note"):
        notes.append(str(spec["note"]))
    measures = [measure(column, config.get("metric")) for column in columns]
    return Grid(spec.get("title") or task, task, notes, measures, rows)


def _cell(column: str, line: Line, first: Line, judge: str | None) -> Cell:
    if column.startswith("win_rate") and column in MEASURES:
        fifth, wins = column.partition(".")[2], line.wins.get(judge or "")
        if not wins or (fifth and not wins.by_god):
            return Cell()
        part = wins.by_god[int(fifth) - 1] if fifth else wins
        return Cell(part.rate, None, part.interval)
    if column in ("overhead", "speedup"):
        return _time(column, line, first)
    if column == "same_completions":
        return Cell() if line is first else Cell(_same_completions(line, first))
    return line.cells[column] if column in line.cells else Cell(_whole(column, line))


def _time(column: str, line: Line, first: Line) -> Cell:
    """The additional seconds of a line, as a share of the first line's (overhead), or the speedup. Speedup has no
    interval, because the examples of a batch share its time."""
    seconds, base = line.cells["seconds"], first.cells["seconds"].value
    if column == "speedup":
        return Cell(base / seconds.value)  # type: ignore[operator]
    if line is first:
        return Cell()
    interval = (seconds.interval[0] / base, seconds.interval[1] / base) if seconds.interval and base else None
    return Cell(seconds.value / base - 1, None, interval)  # type: ignore[operator]


def _same_completions(line: Line, first: Line) -> float:
    """The share of completions with the same tokens as the first line's run of the same seed (else its first run)."""
    same = []
    for run in line.runs:
        theirs = opponent(run, first.runs).samples
        same += [sample["tokens"] == theirs[i]["tokens"] for i, sample in run.samples.items() if i in theirs]
    return sum(same) / len(same)


def _whole(column: str, line: Line) -> float | None:
    """A number of whole runs, averaged over the line; None if a run has none."""
    values = [measure(column, run.config.get("metric")).of_run(run.metrics or {}) for run in line.runs]
    return None if None in values else mean(values)
