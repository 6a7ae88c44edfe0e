"""A report: one HTML file that shows runs and lets each example be replayed, and needs no network to do so.

Figures are drawn here; examples are packed into compressed chunks that the page's script opens as they are looked at.
All that a model or a user wrote is escaped by the template or set as text by the script, and the page's policy lets no
other script run.
"""

import base64
import gzip
import hashlib
import json
import textwrap
from pathlib import Path
from typing import Any

from rws_cli import __version__
from rws_cli.analysis.compare import Line, alone, common
from rws_cli.analysis.measures import GOD_IN_WORDS, MEASURES, measure
from rws_cli.analysis.summary import total_cost
from rws_cli.analysis.table import grid_of
from rws_cli.analysis.trajectory import Commit, Trajectory
from rws_cli.config.identity import differing_keys, flat, identity
from rws_cli.errors import RunError, display_path
from rws_cli.files import user_path, write_whole
from rws_cli.report.colors import CONFIDENCES, STEPS
from rws_cli.report.compare import HOW_COMPARED, comparison_sheets
from rws_cli.report.escape import as_yaml
from rws_cli.report.figures import drawable, svg
from rws_cli.report.runs import ReportRun, load_report_runs
from rws_cli.report.sheets import Sheet, Strong
from rws_cli.report.table import as_sheet
from rws_cli.report.terminal import number
from rws_cli.runs.folder import output_dir
from rws_cli.runs.reading import by_task

PAGE = Path(__file__).parent / "page"
CHUNK = 50
"""Examples in a chunk."""
MOST_BYTES = 16_000_000
"""The most bytes of packed examples in a page. Beyond it, later examples have no replay, which the page says."""
SNIPPET = 160
"""Characters of a prompt in the table of examples."""


def write_reports(paths: list[str], out: str | None) -> list[Path]:
    """A report on some runs, one for each benchmark and model; returns what was written.

    Raises RunError if a run has nothing to show, and what compared does.
    """
    target = user_path(out) if out else output_dir(paths[0]) / "report.html"
    if target.is_dir():
        target /= "report.html"
    written = []
    groups = by_task(paths)
    for group in groups:
        runs, lines = load_report_runs(group)
        of = runs[0].config
        name = f"{target.stem}-{of['benchmark']['name']}-{of['model']['name']}{target.suffix}"
        path = target.with_name(name) if len(groups) > 1 else target
        try:
            write_whole(path, page(runs, lines))
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}.") from error
        written.append(path)
    return written


def page(runs: list[ReportRun], lines: list[Line]) -> str:
    """The HTML of a report on runs of one benchmark and model."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    config, examples = runs[0].config, common([run.run for run in runs])
    packed, replayable = pack(runs, examples)
    index = {
        "runs": [{"label": run.label, "color": run.color} for run in runs],
        "examples": [row_of(runs, example) for example in examples],
        "chunk": CHUNK,
        "steps": STEPS,
        "confidences": CONFIDENCES,
    }
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["strong"] = lambda cell: isinstance(cell, Strong)
    figures = [(name, title) for name, title in FIGURE_TITLES.items() if drawable(name, runs, examples[0])]
    return environment.get_template("page.html").render(
        version=__version__,
        title=f"{config['benchmark']['name']} · {config['model']['name']} · {', '.join(run.label for run in runs)}",
        benchmark=config["benchmark"]["name"],
        model=config["model"]["name"],
        runs=runs,
        path=display_path,
        replayable=replayable,
        notes=notes(runs),
        how=HOW_COMPARED.format(lines[0].examples)
        if lines
        else f"means over examples, with 95 % intervals; {GOD_IN_WORDS}",
        sheets=comparison_sheets(lines) if lines else [means(runs[0])],
        grid=grid_of(lines) if lines and config.get("table") else None,
        as_sheet=as_sheet,
        costs=costs(runs),
        figures=[(name, title, svg(name, runs, examples[0])) for name, title in figures],
        differing=differing(runs),
        settings=[(run, as_yaml(run.config, 100), as_yaml(origin(run), 100)) for run in runs],
        style=(PAGE / "page.css").read_text(encoding="utf-8"),
        script=script,
        digest=digest,
        packed={"index": squeezed(index), **packed},
    )


FIGURE_TITLES = {
    "order_heatmap": "Decoding order: the positions committed at each step, over all examples",
    "by_step": "Confidence and reward by step",
    "god": "Generation Order Deviation (GOD): distance from left-to-right order",
    "reversals": "Rank reversals vs. share of tokens committed",
}


# --- figures and settings -----------------------------------------------------------------------------------------


def means(run: ReportRun) -> Sheet:
    """The measures of a single run, each with its interval over questions."""
    sheet = Sheet(["measure", "mean", "95 % interval"])
    for name, cell in alone(run.run).items():
        of = measure(name, run.config.get("metric"))
        factor, form, percent = (100, ".1f", " %") if of.percent else (1, ",.3f", "")
        value, *within = (format(factor * number, form) for number in (cell.value, *(cell.interval or ())))
        sheet.add(of.with_unit, value + percent, " to ".join(within) + percent if within else "–")
    return sheet


TOTALS = {
    "mdm_passes": ",.0f", "mdm_tokens": ",.0f", "reward_calls": ",.0f", "reward_tokens": ",.0f", "seconds": ",.1f",
}  # fmt: skip
"""The costs of which a report has totals, and their formats."""


def costs(runs: list[ReportRun]) -> Sheet:
    """Total cost of each run."""
    names = [MEASURES[name].display_name for name in (*TOTALS, "tokens_per_second")]
    sheet = Sheet(["run", "examples", *names], title="Total cost")
    for run in runs:
        record = {"cost": total_cost(run.samples)}
        totals = [number(MEASURES[f"total_{name}"].of_run(record), form) for name, form in TOTALS.items()]
        speed = number(MEASURES["tokens_per_second"].of_run(record), ",.0f")
        sheet.add(run.label, f"{len(run.samples):,}", *totals, speed)
    return sheet


def notes(runs: list[ReportRun]) -> list[str]:
    """Notes for the reader: unfinished runs and failed examples."""
    lines = []
    for run in runs:
        if run.run.manifest["status"] != "finished":
            lines.append(f"{run.label} is {run.run.manifest['status']}: its results so far are shown.")
        if failed := run.run.manifest.get("failed"):
            lines.append(f"{run.label}: {len(failed)} examples failed and are left out.")
    return lines


def differing(runs: list[ReportRun]) -> Sheet | None:
    """The settings in which runs differ; None for one run."""
    settings = [identity(run.config) for run in runs]
    keys = dict.fromkeys(key for other in settings[1:] for key in differing_keys(settings[0], other))
    sheet = Sheet(["setting", *(run.label for run in runs)], words=1 + len(runs), title="Where the runs differ")
    for key in keys:
        sheet.add(key, *(str(of.get(key, "–")) for of in map(flat, settings)))
    return sheet if keys else None


def origin(run: ReportRun) -> dict[str, Any]:
    """The provenance of a run's numbers."""
    keys = ("command", "started", "finished", "resumed", "versions", "git", "machine", "sources", "config_hash")
    return {key: run.run.manifest.get(key) for key in keys}


# --- examples -----------------------------------------------------------------------------------------------------


def row_of(runs: list[ReportRun], example: str) -> list[Any]:
    """A row of the table of examples: id, start of the prompt, and for each run whether the completion is correct
    (null: not graded), its reward and its GOD."""
    samples = [run.run.samples[example] for run in runs]
    prompt = " ".join(samples[0]["prompt"].split())
    return [
        example,
        prompt if len(prompt) <= SNIPPET else prompt[: SNIPPET - 1] + "…",
        [None if s["grade"] is None else int(s["grade"]["correct"]) for s in samples],
        [_rounded(MEASURES["reward"].of_sample(s)) for s in samples],
        [_rounded(MEASURES["god"].of_sample(s)) for s in samples],
    ]


def pack(runs: list[ReportRun], examples: list[str]) -> tuple[dict[str, str], int]:
    """The page's chunks ("text-0", "trajectory-0", …), packed, and the number of examples whose trajectory is in it."""
    packed: dict[str, str] = {}
    chunks = [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]
    for n, chunk in enumerate(chunks):
        packed[f"text-{n}"] = squeezed([text_of(runs, example) for example in chunk])
    size, replayable = sum(map(len, packed.values())), 0
    for n, chunk in enumerate(chunks):
        trajectory = squeezed(trajectories_of(runs, chunk))
        size += len(trajectory)
        if size > MOST_BYTES:
            break
        packed[f"trajectory-{n}"] = trajectory
        replayable += len(chunk)
    return packed, replayable


def text_of(runs: list[ReportRun], example: str) -> dict[str, Any]:
    samples = [run.run.samples[example] for run in runs]
    return {
        "prompt": samples[0]["prompt"],
        "history": samples[0].get("history", []),
        "reference": samples[0]["reference"],
        "completions": [s["completion"] for s in samples],
        "choices": [choice_lines(s) for s in samples],
        "read": [textwrap.shorten((s["grade"] or {}).get("extracted", ""), 80, placeholder="…") for s in samples],
    }


def choice_lines(sample: dict[str, Any]) -> str:
    """An example's choices, each with its log likelihood and standard error; an arrow points at the one that was chosen."""
    return "\n".join(
        f"{'→' if choice['text'] == sample['completion'] else ' '} {choice['log_likelihood']:10.3f} ± "
        f"{choice['standard_error']:.3f}  {choice['text'].strip()}"
        for choice in sample.get("choices", [])
    )


def trajectories_of(runs: list[ReportRun], examples: list[str]) -> dict[str, Any]:
    """Trajectories in short form: token texts are indices into one list of words. None for an example without steps."""
    words: dict[str, int] = {}
    trajectories = zip(*(run.run.trajectories(examples) for run in runs), strict=True)
    rows = [
        [pack_trajectory(trajectory, words) for trajectory in of_example] if any(t.steps for t in of_example) else []
        for of_example in trajectories
    ]
    return {"words": list(words), "rows": rows}


def pack_trajectory(trajectory: Trajectory, words: dict[str, int]) -> dict[str, Any]:
    """n: positions. Per step: k, tokens committed; r, reward, and x, scale, if any; m, positions masked before it.
    Per token: p, position; t, text; c, confidence in thousandths. f: position and text of each fixed token, if any."""
    commits = [commit for step in trajectory.steps for commit in step.committed]
    packed: dict[str, Any] = {
        "n": trajectory.positions,
        "k": [len(step.committed) for step in trajectory.steps],
        "p": [commit.position for commit in commits],
        "t": [words.setdefault(trajectory.display(commit), len(words)) for commit in commits],
        "c": [None if commit.confidence is None else round(1000 * commit.confidence) for commit in commits],
    }
    for key, values in (("r", [s.reward for s in trajectory.steps]), ("x", [s.scale for s in trajectory.steps])):
        if any(value is not None for value in values):
            packed[key] = [_rounded(value) for value in values]
    if any(step.remasked for step in trajectory.steps):
        packed["m"] = [step.remasked for step in trajectory.steps]
    if trajectory.fixed:
        texts = {n: trajectory.display(Commit(n, text, None)) for n, text in trajectory.fixed.items()}
        packed["f"] = [[n, words.setdefault(text, len(words))] for n, text in texts.items()]
    return packed


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def squeezed(value: Any) -> str:
    """JSON, compressed, in characters without meaning in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
