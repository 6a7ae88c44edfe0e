"""The figures of a report, drawn by matplotlib: for its page, and alone as PNG or PDF for a paper.

A column of a paper is 3.4 inches wide; letters are 8 points. Colors are Okabe and Ito's, and lines differ in dashes too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.compare import common
from rws_cli.analysis.frames import by_step, extent, heat
from rws_cli.analysis.guidance import mean_guidance
from rws_cli.analysis.measures import MEASURES
from rws_cli.analysis.trajectory import Trajectory
from rws_cli.config.renamed import renamed
from rws_cli.errors import UsageError, choose_from
from rws_cli.files import user_path
from rws_cli.report.colors import STEPS, ink, mixed
from rws_cli.report.replay import place_of
from rws_cli.report.runs import ReportRun, load_report_runs
from rws_cli.runs.folder import output_dir
from rws_cli.runs.reading import by_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 3.4
DASHES = ("-", "--", "-.", ":")
INK = "#123457"
"""On the page, lines in this color take the color of the text, dark on light or light on dark."""


@contextmanager
def style(color: str = "black") -> Iterator[None]:
    """matplotlib's settings for all figures, in place of the user's."""
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "axes.formatter.useoffset": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "rws",  # the same file for the same numbers
        "pdf.fonttype": 42,
        "text.parse_math": False,  # a dollar in a label or a token is a dollar
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), color),
    }
    with mpl.rc_context(mpl.rcParamsDefault):
        mpl.rcParams.update(settings)
        yield


def _figure(height: float, width: float = WIDTH) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, axes: Any, runs: list[ReportRun]) -> None:
    if len(runs) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(runs) < 7 else 3)


def draw_order_heatmap(runs: list[ReportRun], example: str) -> Figure:
    """Heat map: the positions that are committed at each step, over all examples; one panel per run."""
    from matplotlib.colors import LinearSegmentedColormap

    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = _figure(0.5 + (1.5 if columns == 2 else 2.4) * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    clear = [(*(c / 255 for c in mixed(STEPS, 1 / 3)), alpha) for alpha in (0.0, 1.0)]
    colors = LinearSegmentedColormap.from_list("share", clear)
    for panel in panels.flat[len(runs) :]:
        panel.set_axis_off()
    for panel, run in zip(panels.flat, runs, strict=False):
        cells = heat(run.run)
        steps, positions = extent(run.run)
        share = cells / max(cells.max(), 1e-12)
        panel.imshow(
            share, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=(-0.5, positions - 0.5, steps - 0.5, -0.5)
        )  # fmt: skip
        if len(runs) > 1:
            panel.set_title(run.label)
        panel.set_xlabel("position")
        panel.set_ylabel("step")
    return figure


def draw_by_step(runs: list[ReportRun], example: str) -> Figure:
    """Confidence and reward by step: means over examples, and the range from the 10th to the 90th percentile."""
    curves = {name: [by_step(run.run, name) for run in runs] for name in ("confidence", "reward")}
    names = [name for name, of_runs in curves.items() if any(frame is not None for frame in of_runs)]
    figure = _figure(1.5 * len(names) + (0.3 if len(runs) > 1 else 0.1))
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        for n, (run, frame) in enumerate(zip(runs, curves[name], strict=True)):
            if frame is None:
                panel.plot([], [], color=run.color, linestyle=DASHES[n % 4], label=run.label)
                continue
            panel.fill_between(frame.index, frame["low"], frame["high"], color=run.color, alpha=0.15, linewidth=0)
            panel.plot(frame.index, frame["mean"], color=run.color, linestyle=DASHES[n % 4], label=run.label)
        if name == "confidence":  # differences in the fifth digit are none to be seen
            panel.set_ylim(min(0.9, panel.get_ylim()[0]), 1.005)
        panel.set_ylabel(MEASURES[name].display_name)
    panels[-1].set_xlabel("step")
    panels[-1].locator_params(axis="x", integer=True)
    _legend(figure, panels[0], runs)
    return figure


def draw_god(runs: list[ReportRun], example: str) -> Figure:
    """Distribution of GOD, the distance from left-to-right order, over examples."""
    import numpy as np

    figure = _figure(2.0 if len(runs) == 1 else 2.3)
    panel = figure.subplots()
    values = [[god for god in map(MEASURES["god"].of_sample, run.samples) if god is not None] for run in runs]
    known = [value for group in values for value in group]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 21)
    for n, (run, group) in enumerate(zip(runs, values, strict=True)):
        if group:
            counts, _ = np.histogram(group, edges)
            if len(runs) == 1:
                panel.stairs(counts / len(group), edges, color=run.color, alpha=0.15, fill=True)
            panel.stairs(counts / len(group), edges, color=run.color, linestyle=DASHES[n % 4], label=run.label)
    panel.set_xlabel(f"{MEASURES['god'].with_unit}, 0: left to right")
    panel.set_ylabel("share of examples")
    _legend(figure, panel, runs)
    return figure


def draw_reversals(runs: list[ReportRun], example: str) -> Figure:
    """The share of pairs of open positions whose order the scale reversed, by the share of tokens committed."""
    figure = _figure(2.0 if len(runs) == 1 else 2.3)
    panel = figure.subplots()
    effects = [(run, mean_guidance([sample["guidance"] for sample in run.samples])) for run in runs]
    steered = [(run, means) for run, means in effects if means]
    for n, (run, means) in enumerate(steered):
        points = [
            (5 + 10 * k, 100 * share) for k, share in enumerate(means["reversals_by_progress"]) if share is not None
        ]
        panel.plot(*zip(*points, strict=True), "os^v"[n % 4], color=run.color, linestyle=DASHES[n % 4], label=run.label)
    panel.set_xlim(0, 100)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("tokens committed, %")
    panel.set_ylabel(MEASURES["reversals"].heading)
    _legend(figure, panel, [run for run, _ in steered])
    return figure


def draw_order(runs: list[ReportRun], example: str) -> Figure:
    """One completion in the order in which its tokens were committed: left to right for comparison, then each run
    (figure 1 of the paper). The number in a token's corner is its step."""
    from matplotlib.patches import Rectangle

    trajectories = [(run.label, run.run.trajectories([example])[0]) for run in runs]
    strips = [("left to right", trajectories[0][1].left_to_right()), *trajectories]
    wide = 7.0
    laid = [(label, _lines(trajectory, wide)) for label, trajectory in strips]
    heights = [0.32 + 0.26 * len(lines) for _, lines in laid]
    figure = _figure(sum(heights) + 0.1, wide)
    figure.set_layout_engine("none")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_axis_off()
    panel.set_xlim(0, wide)
    panel.set_ylim(-sum(heights) - 0.1, 0)
    top = 0.0
    for (label, lines), height in zip(laid, heights, strict=True):
        panel.text(0.05, top - 0.2, label, fontsize=8, fontweight="bold")
        for row, line in enumerate(lines):
            y = top - 0.28 - 0.26 * (row + 1)
            for x, width, text, step, share in line:
                color = mixed(STEPS, share) if step >= 0 else (255, 255, 255)  # fixed tokens are white
                face = "#{:02x}{:02x}{:02x}".format(*color)
                panel.add_patch(Rectangle((x, y), width, 0.24, facecolor=face, edgecolor="white", linewidth=0.5))
                panel.text(x + 0.04, y + 0.05, text, fontsize=7, color=ink(color), family="monospace")
                panel.text(
                    x + width - 0.02, y + 0.15, str(step) if step >= 0 else "", fontsize=4, color=ink(color), ha="right"
                )
        top -= height
    return figure


def _lines(trajectory: Trajectory, wide: float) -> list[list[tuple[float, float, str, int, float]]]:
    """The tokens of a trajectory in lines: left edge, width, text, step (from 0; −1: fixed), and share of the steps."""
    lines: list[list[tuple[float, float, str, int, float]]] = [[]]
    x, last = 0.05, max(1, len(trajectory.steps) - 1)
    for place in trajectory.states[-1]:
        assert place
        step, commit = place
        text = trajectory.display(commit)
        width = 0.13 + 0.061 * len(text) + 0.03 * len(str(step))
        if x + width > wide - 0.05 and lines[-1]:
            lines.append([])
            x = 0.05
        lines[-1].append((x, width, text, step, step / last))
        x += width
        if commit.position >= trajectory.length:  # the end, once
            break
    return lines


FIGURES: dict[str, Callable[[list[ReportRun], str], Figure]] = {
    "order": draw_order,
    "order_heatmap": draw_order_heatmap,
    "by_step": draw_by_step,
    "god": draw_god,
    "reversals": draw_reversals,
}


def drawable(name: str, runs: list[ReportRun], example: str) -> bool:
    """Whether a figure has anything to show. Choices that are scored by likelihood have no order."""
    if name == "order":
        return all(run.run.samples[example]["committed"] for run in runs)
    field = "guidance" if name == "reversals" else "committed"
    return any(sample[field] for run in runs for sample in run.samples)


def svg(name: str, runs: list[ReportRun], example: str) -> str:
    """A figure as SVG for the page: without a fixed size, in the page's text color."""
    buffer = io.StringIO()
    with style(INK):
        FIGURES[name](runs, example).savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")


def write_figures(
    paths: list[str], out: str | None, names: list[str], formats: list[str], example: str | None
) -> list[Path]:
    """Single figures in each of some formats (png, pdf), into the folder `out`, or figures/ in the first run's or sweep's;
    those with nothing to see are left out.

    Raises UsageError for runs of several benchmarks or models, an unknown figure or example; RunError as load_report_runs does.
    """
    folders, *others = by_task(paths)
    if others:
        raise UsageError("Figures show runs of one benchmark and model: name those run folders alone.")
    runs, _ = load_report_runs(folders)
    ids = common([run.run for run in runs])
    chosen = ids[0 if example is None else place_of(example, ids, folders[0])]
    names = [renamed("figure", name) for name in names]
    if unknown := next((name for name in names if name not in FIGURES), None):
        raise UsageError(f"{unknown} is not a figure: {choose_from(unknown, FIGURES)}")
    folder = user_path(out) if out else output_dir(paths[0]) / "figures"
    folder.mkdir(exist_ok=True)
    written = []
    for name in [name for name in names or FIGURES if drawable(name, runs, chosen)]:
        with style():
            figure = FIGURES[name](runs, chosen)
            for form in formats:
                written.append(folder / f"{name}.{form}")
                dateless = {"CreationDate": None} if form == "pdf" else {}
                figure.savefig(written[-1], format=form, dpi=300, facecolor="white", metadata=dateless)
    return written
