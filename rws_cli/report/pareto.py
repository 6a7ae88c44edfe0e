"""Accuracy and reward against cost, as Markdown, CSV and a figure: the curves of analysis/curves.py."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rws_cli.analysis.curves import VALUES, Curve, Point, curves_of, families, frontier
from rws_cli.analysis.measures import MEASURES
from rws_cli.files import write_whole
from rws_cli.report.escape import bounds, csv, markdown_table
from rws_cli.runs.folder import find_all, output_dir
from rws_cli.runs.reading import read_run

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:cyan", "tab:olive", "0.35")


def write_pareto(paths: Sequence[Path | str], against: Sequence[str] = (), axis: str = "tokens") -> str:
    """Write pareto.md, pareto.csv and pareto.svg into the first folder; returns the Markdown.

    against: labels of the curves that all are compared with; none: those of REFERENCES. axis: one of COSTS. Raises
    UsageError if runs of one task cannot be paired, or a curve or cost does not exist.
    """
    curves, target = curves_of([read_run(folder) for folder in find_all(paths)], against, axis), output_dir(paths[0])
    markdown = as_markdown(curves)
    write_whole(target / "pareto.md", markdown + "\n")
    write_whole(target / "pareto.csv", as_csv(curves))
    draw(curves, target / "pareto.svg")
    return markdown


def as_markdown(curves: list[Curve]) -> str:
    """Two tables: accuracy at each cost, and the differences to the references at the same cost."""
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    by_label: dict[str, dict[str, Curve]] = {}
    for family in families(curves):
        for curve in curves:
            if curve.family == family:
                by_label.setdefault(curve.label, {})[curve.task] = curve
    rows, others = [], []
    references = compared_with(curves)
    for label, by_task in by_label.items():
        one = next(iter(by_task.values()))
        swept = dict.fromkeys(part.split("=")[0] for point in one.points for part in point.settings.split(", ") if part)
        cells = [_cells(by_task.get(task), _accuracy) for task in tasks]
        rows.append([one.family, label, one.paper or "–", ", ".join(swept), *cells])
        others.append(
            [one.family, label]
            + [_cells(by_task.get(t), partial(_difference, reference=r)) or "–" for t in tasks for r in references]
        )
    axis = curves[0].points[0].axis
    unit = f"{'thousand ' if axis == 'tokens' else ''}{MEASURES[axis].description}"
    accuracy = (
        "Accuracy in percent ± half its 95 % interval, in parentheses what it cost: "
        f"{unit}.\n\n{markdown_table(['family', 'sampler', 'paper', 'swept', *tasks], rows)}"
    )
    if not references:
        return accuracy
    heads = [
        f"{task} − {reference}" if len(tasks) > 1 else f"− {reference}" for task in tasks for reference in references
    ]
    return (
        f"{accuracy}\n\nDifference in accuracy at equal cost, in points, with 95 % intervals: to the best that the sampler "
        "behind the minus sign does for at most that cost, on the line between its two settings around it.\n\n"
        f"{markdown_table(['family', 'sampler', *heads], others)}"
    )


def compared_with(curves: list[Curve]) -> list[str]:
    """The references that any point is compared with."""
    return list(dict.fromkeys(label for curve in curves for point in curve.points for label in point.differences))


def _cells(curve: Curve | None, form: Callable[[Point], str]) -> str:
    """The values of a curve's points, each with its cost."""
    cells = [(form(point), point) for point in curve.points] if curve else []
    return ", ".join(f"{value} ({_spent(point)})" for value, point in cells if value)


def _spent(point: Point) -> str:
    return f"{point.spent / 1000:.1f}" if point.axis == "tokens" else f"{point.spent:.3g}"


def _accuracy(point: Point) -> str:
    if "accuracy" not in point.value:
        return ""
    interval = point.interval["accuracy"]
    half = f" ± {50 * (interval[1] - interval[0]):.0f}" if interval else ""
    return f"{100 * point.value['accuracy']:.0f}{half}"


def _difference(point: Point, reference: str) -> str:
    if reference not in point.differences:
        return ""
    difference = point.differences[reference]
    mean, *interval = (
        f"{round(100 * share):+d}".replace("+0", "0") for share in (difference.mean, *(difference.interval or ()))
    )
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def as_csv(curves: list[Curve]) -> str:
    """One line per point, in the order of the curves; costs are means over examples."""
    rows, references = [], compared_with(curves)
    for curve in curves:
        for point in curve.points:
            row: dict[str, Any] = {"task": curve.task, "family": curve.family, "sampler": curve.label}
            row |= {"settings": point.settings} | point.cost
            for name, value in point.value.items():
                row |= {name: value} | bounds(name, point.interval[name])
            for reference in references:
                name, difference = f"accuracy_against_{reference}", point.differences.get(reference)
                row[name] = difference.mean if difference else None
                row |= bounds(name, difference.interval if difference else None)
            rows.append(row)
    return csv(rows)


def draw(curves: list[Curve], path: Path) -> None:
    """A panel for each measure, task and family of samplers. All show the references in gray for comparison, and RWS in
    red."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(curve.task for curve in curves))
    measures = [name for name in VALUES if any(name in point.value for curve in curves for point in curve.points)]
    rows = [(task, measure) for task in tasks for measure in measures]
    columns, axis = families(curves), curves[0].points[0].axis
    lines = dict(zip(compared_with(curves), ("--", ":", "-.", "-"), strict=False))
    figure = Figure(figsize=(3.2 * len(columns) + 0.6, 2.3 * len(rows) + 1.8), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex="row", sharey="row")
    for line, (task, measure) in zip(axes, rows, strict=True):
        of_task = [curve for curve in curves if curve.task == task]
        for panel, name in zip(line, columns, strict=True):
            for curve in of_task:
                if curve.label in lines and curve.family != name:
                    _trace(panel, curve, measure, "0.75", line=lines[curve.label])
            own = [curve for curve in of_task if curve.family == name]
            for number, curve in enumerate(own):
                color = "crimson" if curve.label.startswith("rws") else COLORS[number % len(COLORS)]
                _trace(panel, curve, measure, color, "os^vDPX*<>"[number % 10], label=curve.label)
            panel.set_xscale("log")
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.tick_params(labelsize=8)
        line[0].set_ylabel(f"{task}\n{MEASURES[measure].heading}", fontsize=9)
    for number, name in enumerate(columns):
        axes[0][number].set_title(name, fontsize=11)
        bottom = axes[-1][number]
        bottom.set_xlabel(MEASURES[axis].description, fontsize=8)
        drawn = [row[number].get_legend_handles_labels() for row in axes]
        once = {label: handle for handles, labels in drawn for label, handle in zip(labels, handles, strict=True)}
        bottom.legend(
            once.values(), once, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, fontsize=8, frameon=False
        )
    with rc_context({"svg.hashsalt": "rws", "svg.fonttype": "none"}):  # the same file for the same numbers
        figure.savefig(path, format="svg", metadata={"Date": None})


def _trace(
    panel: Any, curve: Curve, measure: str, color: Any, marker: str = "", line: str = "-", label: str | None = None
) -> None:
    """A line through the points that are best for their cost. marker: a shape, to show all points with their intervals."""
    points = [point for point in curve.points if measure in point.value]
    factor, best = 100 if MEASURES[measure].percent else 1, frontier(points, measure)
    if marker:
        costs, middle = [point.spent for point in points], [factor * point.value[measure] for point in points]
        ends = [point.interval[measure] or (point.value[measure],) * 2 for point in points]
        errors = [
            [max(0.0, m - factor * low) for m, (low, _) in zip(middle, ends, strict=True)],
            [max(0.0, factor * high - m) for m, (_, high) in zip(middle, ends, strict=True)],
        ]
        panel.errorbar(costs, middle, errors, color=color, fmt=marker, markersize=4, elinewidth=0.6, label=label)
    best_values = [factor * point.value[measure] for point in best]
    panel.plot([point.spent for point in best], best_values, line, color=color, linewidth=1.2)
