"""What answers cost and what they are worth: a sweep as curves, one a sampler and task, one point a setting.

Cost is tokens put through model and reward, an example: it counts a pass of the one as a pass of the other, and a longer
text as more. Nothing else about a run is a fair price: seconds change with the machine, passes leave the reward out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rws_cli.config import choices, differing_keys, identity
from rws_cli.errors import UsageError, nearest
from rws_cli.metrics.statistics import bootstrap_interval, wilson
from rws_cli.report.compare import MEASURES, Run, by_settings, column, paired, read_run
from rws_cli.runs.folder import find_runs, write_whole
from rws_cli.schema import COUNTED, REMASKING

if TYPE_CHECKING:
    import numpy as np

COST = {
    "tokens": lambda s: float(s["cost"]["mdm_tokens"] + s["cost"]["reward_tokens"]),
    "mdm_passes": MEASURES["mdm_passes"],
    "reward_calls": MEASURES["reward_calls"],
    "seconds": MEASURES["seconds"],
}
VALUES = {"accuracy": 100, "reward": 1}
"""What is drawn, and the factor that it is shown with."""
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:cyan", "tab:olive", "0.35")
FAMILIES = ("orders", "Dream's", "as many as are sure", "masking again", "search")


@dataclass(frozen=True)
class Point:
    """A setting of a sampler. by_question: each question's value, by measure; difference: in accuracy to the best
    that the reference does for at most this cost, with its 95 % interval; None where it does nothing that cheaply."""

    settings: str
    cost: dict[str, float]
    by_question: dict[str, np.ndarray]
    value: dict[str, float]
    interval: dict[str, tuple[float, float] | None]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """A sampler's points on one task, cheapest first."""

    task: str
    label: str
    family: str
    paper: str
    points: list[Point]


def write_pareto(paths: Sequence[Path | str], against: str = "best_of_n") -> str:
    """Write pareto.md, pareto.csv and pareto.svg into the first folder; returns the Markdown.

    Raises UsageError if runs of one task cannot be paired, or `against` names no curve.
    """
    curves = read_curves([folder for path in paths for folder in find_runs(str(path))], against)
    first = Path(paths[0]).expanduser()
    target = first if first.is_dir() else find_runs(str(first))[0]
    markdown = as_markdown(curves, against)
    write_whole(target / "pareto.md", markdown + "\n")
    write_whole(target / "pareto.csv", as_csv(curves, against))
    draw(curves, target / "pareto.svg")
    return markdown


def read_curves(folders: list[Path], against: str) -> list[Curve]:
    """The curves of some runs, task by task, each against the curve of that label; there need be none by default's."""
    tasks: dict[str, list[Run]] = {}
    for run in map(read_run, folders):
        tasks.setdefault(f"{run.config['benchmark']['name']}, {run.config['model']['name']}", []).append(run)
    curves: list[Curve] = []
    for task, runs in tasks.items():
        found = _curves_of(task, runs)
        labels = [curve.label for curve in found]
        if against not in labels and against != "best_of_n":
            raise UsageError(
                f"--against {against} is none of the samplers here: choose from {', '.join(labels)}{nearest(against, labels) or '.'}"
            )
        reference = next((curve for curve in found if curve.label == against), None)
        curves += [_against(curve, reference) for curve in found] if reference else found
    return curves


def _curves_of(task: str, runs: list[Run]) -> list[Curve]:
    ids = paired(runs)
    by_label: dict[str, list[list[Run]]] = {}
    for members in by_settings(runs):
        config = members[0].config
        by_label.setdefault(config.get("label") or config["sampler"]["name"], []).append(members)
    curves = []
    for label, groups in by_label.items():
        configs = [members[0].config for members in groups]
        points = [_point(members, ids, _settings(configs, members[0].config)) for members in groups]
        points.sort(key=lambda point: point.cost["tokens"])
        curves.append(Curve(task, label, family(configs[0]["sampler"]), _paper(configs[0]["sampler"]["name"]), points))
    return curves


def family(sampler: dict[str, Any]) -> str:
    """Which of FAMILIES a sampler's settings belong to."""
    kind = sampler["schedule"]["kind"]
    if sampler["search"]["kind"] != "none":
        return "search"
    if kind in REMASKING or sampler["review"]["kind"] != "none":
        return "masking again"
    if kind == "prophet" or kind not in COUNTED:
        return "as many as are sure"
    return "Dream's" if kind == "dream" else "orders"


def _paper(sampler: str) -> str:
    found = re.search(r"\(([^()]*\d{4}\.\d{5})\)", choices("sampler").get(sampler, ""))
    return found.group(1) if found else ""


def _settings(configs: list[dict[str, Any]], config: dict[str, Any]) -> str:
    """What sets a configuration apart from the others of its curve."""
    own: dict[str, Any] = {}
    for other in configs:
        own |= {key: a for key, (a, _) in differing_keys(identity(config), identity(other)).items() if key != "seed"}
    return ", ".join(f"{key.removeprefix('sampler.')}={value}" for key, value in own.items())


def _point(members: list[Run], ids: list[str], settings: str) -> Point:
    by_question: dict[str, np.ndarray] = {}
    for name in VALUES:
        values = column(members, ids, MEASURES[name])
        if values is not None:
            by_question[name] = values
    cost = {name: float(values.mean()) for name, m in COST.items() if (values := column(members, ids, m)) is not None}
    means = {name: float(values.mean()) for name, values in by_question.items()}
    return Point(settings, cost, by_question, means, {name: _interval(v) for name, v in by_question.items()})


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    import numpy as np

    if np.isin(values, (0.0, 1.0)).all():  # a share: the bootstrap of a row of ones would be sure
        return wilson(float(values.sum()), len(values))
    return bootstrap_interval(values)


def _against(curve: Curve, reference: Curve) -> Curve:
    points = []
    for point in curve.points:
        theirs = None if curve is reference else at_cost(reference, point.cost["tokens"], "accuracy")
        if theirs is None or "accuracy" not in point.by_question:
            points.append(point)
            continue
        gained = point.by_question["accuracy"] - theirs
        points.append(replace(point, difference=float(gained.mean()), difference_interval=bootstrap_interval(gained)))
    return replace(curve, points=points)


def frontier(points: list[Point], measure: str) -> list[Point]:
    """Of points, cheapest first, those that are better than all cheaper ones."""
    kept: list[Point] = []
    for point in points:
        if measure in point.value and (not kept or point.value[measure] > kept[-1].value[measure]):
            kept.append(point)
    return kept


def at_cost(curve: Curve, tokens: float, measure: str) -> np.ndarray | None:
    """Each question's value for at most this cost: on the line between the two points of the frontier around it, costs
    on a logarithmic scale; None below the cheapest point."""
    best = frontier(curve.points, measure)
    if not best or tokens < best[0].cost["tokens"]:
        return None
    for a, b in pairwise(best):
        low, high = a.cost["tokens"], b.cost["tokens"]
        if tokens < high:
            share = math.log(tokens / low) / math.log(high / low)
            return (1 - share) * a.by_question[measure] + share * b.by_question[measure]
    return best[-1].by_question[measure]


# --- as text ------------------------------------------------------------------------------------------------------


def as_markdown(curves: list[Curve], against: str) -> str:
    """Two tables: accuracy at each cost, and the difference to the reference at the same cost."""
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    by_label: dict[str, dict[str, Curve]] = {}
    for curve in curves:
        by_label.setdefault(curve.label, {})[curve.task] = curve
    lines = [
        "Accuracy in percent ± half its 95 % interval, in parentheses what it cost: thousand tokens through model and "
        "reward, an example.",
        "",
        _bar(["sampler", "paper", "swept", *tasks]),
        _bar(["---"] * (3 + len(tasks))),
    ]
    for label, found in by_label.items():
        one = next(iter(found.values()))
        swept = dict.fromkeys(part.split("=")[0] for point in one.points for part in point.settings.split(", ") if part)
        cells = [_points(found[task], _accuracy) if task in found else "" for task in tasks]
        lines.append(_bar([label, one.paper or "–", ", ".join(swept), *cells]))
    if any(point.difference is not None for curve in curves for point in curve.points):
        lines += [
            "",
            f"Difference to {against} at equal cost, in points, with 95 % intervals: to the best that {against} does for at "
            "most that cost, on the line between its two settings around it.",
            "",
            _bar(["sampler", *tasks]),
            _bar(["---"] * (1 + len(tasks))),
        ]
        for label, found in by_label.items():
            if label != against:
                cells = [_points(found[task], _difference) if task in found else "" for task in tasks]
                lines.append(_bar([label, *(cell or "–" for cell in cells)]))
    return "\n".join(lines)


def _points(curve: Curve, said: Any) -> str:
    told = [(said(point), point.cost["tokens"] / 1000) for point in curve.points]
    return ", ".join(f"{what} ({cost:.1f})" for what, cost in told if what)


def _accuracy(point: Point) -> str:
    if "accuracy" not in point.value:
        return ""
    interval = point.interval["accuracy"]
    half = f" ± {50 * (interval[1] - interval[0]):.0f}" if interval else ""
    return f"{100 * point.value['accuracy']:.0f}{half}"


def _difference(point: Point) -> str:
    if point.difference is None:
        return ""
    interval = point.difference_interval
    within = f" [{100 * interval[0]:+.0f}, {100 * interval[1]:+.0f}]" if interval else ""
    return f"{100 * point.difference:+.0f}{within}"


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_csv(curves: list[Curve], against: str) -> str:
    """One line a point, in the order of the curves; costs are means over examples."""
    import pandas as pd

    rows = []
    for curve in curves:
        for point in curve.points:
            row: dict[str, Any] = {"task": curve.task, "sampler": curve.label, "settings": point.settings} | point.cost
            for name, value in point.value.items():
                low, high = point.interval[name] or (None, None)
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            low, high = point.difference_interval or (None, None)
            name = f"accuracy_against_{against}"
            rows.append(row | {name: point.difference, f"{name}_low": low, f"{name}_high": high})
    return pd.DataFrame(rows).to_csv(index=False)


# --- as a picture -------------------------------------------------------------------------------------------------


def draw(curves: list[Curve], path: Path) -> None:
    """A panel for each measure of each task and each family of samplers; in all of them, in gray, best-of-N (solid) and
    confidence (dashed) for comparison, and RWS in red."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rws"  # the same picture for the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(curve.task for curve in curves))
    measures = [name for name in VALUES if any(name in point.value for curve in curves for point in curve.points)]
    rows = [(task, measure) for task in tasks for measure in measures]
    families = [name for name in FAMILIES if any(curve.family == name for curve in curves)]
    figure, axes = plt.subplots(
        len(rows), len(families), squeeze=False, sharex="row", sharey="row", layout="constrained",
        figsize=(3.2 * len(families) + 0.6, 2.3 * len(rows) + 1.8),
    )  # fmt: skip
    for line, (task, measure) in zip(axes, rows, strict=True):
        shown = [curve for curve in curves if curve.task == task]
        for panel, name in zip(line, families, strict=True):
            for curve in shown:
                if curve.family != name and curve.label in ("best_of_n", "confidence"):
                    _trace(panel, curve, measure, "0.75", line="--" if curve.label == "confidence" else "-")
            own = [curve for curve in shown if curve.family == name]
            for number, curve in enumerate(own):
                color = "crimson" if curve.label.startswith("rws") else COLORS[number % len(COLORS)]
                _trace(panel, curve, measure, color, "os^vDPX*<>"[number % 10], label=curve.label)
            panel.set_xscale("log")
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.tick_params(labelsize=8)
        line[0].set_ylabel(f"{task}\n{measure}{', %' if VALUES[measure] == 100 else ''}", fontsize=9)
    for number, name in enumerate(families):
        axes[0][number].set_title(name, fontsize=11)
        bottom = axes[-1][number]
        bottom.set_xlabel("tokens through model and reward, an example", fontsize=8)
        found = [row[number].get_legend_handles_labels() for row in axes]
        handles = [handle for given, _ in found for handle in given]
        labels = [label for _, given in found for label in given]
        once = dict(zip(labels, handles, strict=True))
        bottom.legend(
            once.values(), once, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, fontsize=8, frameon=False
        )
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _trace(
    panel: Any, curve: Curve, measure: str, color: Any, marker: str = "", line: str = "-", label: str | None = None
) -> None:
    """A line along the points that are best for their cost; with a marker, all of them and their intervals."""
    points = [point for point in curve.points if measure in point.value]
    factor, best = VALUES[measure], frontier(points, measure)
    middle = [factor * point.value[measure] for point in points]
    ends = [point.interval[measure] or (point.value[measure],) * 2 for point in points]
    below = [max(0.0, m - factor * low) for m, (low, _) in zip(middle, ends, strict=True)]
    above = [max(0.0, factor * high - m) for m, (_, high) in zip(middle, ends, strict=True)]
    if marker:
        panel.errorbar(
            [point.cost["tokens"] for point in points],
            middle,
            yerr=[below, above],
            color=color,
            fmt=marker,
            markersize=4,
            elinewidth=0.6,
            label=label,
        )
    panel.plot(
        [point.cost["tokens"] for point in best], [factor * point.value[measure] for point in best], line, color=color,
        linewidth=1.2,
    )  # fmt: skip
