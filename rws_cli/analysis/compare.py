"""Runs side by side: the same examples under different settings, paired, with intervals of the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.analysis.statistics import bootstrap_interval, difference_p, holm
from rws_cli.analysis.win_rate import WinRate, win_rate
from rws_cli.config.identity import differing_keys, identity
from rws_cli.errors import UsageError, shown
from rws_cli.runs.folder import read_json
from rws_cli.runs.manifest import marker_version
from rws_cli.runs.records import read_samples

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Run:
    """A run as far as it is done; `marker` is the version of the benchmark's marking rule that its marks come from."""

    folder: Path
    config: dict[str, Any]
    status: str
    config_hash: str
    marker: int
    samples: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """One row of a comparison: runs that differ in the seed alone, averaged within each example.

    Values and differences to the first line are means over the paired examples; intervals are 95 % paired bootstrap
    percentiles over examples. Both are None for the first line itself, intervals also for a single example.
    p: of the difference in accuracy (statistics.difference_p), adjusted by Holm's method for the number of lines.
    wins: by judge, the win rate against the first line, where there are verdicts; judges of one name are told apart by
    what differs (contests.judge_labels). folders: of the runs.
    """

    label: str
    seeds: list[int]
    examples: int
    values: dict[str, float | None]
    difference: dict[str, float | None]
    interval: dict[str, tuple[float, float] | None]
    p: float | None = None
    wins: dict[str, WinRate] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


MEASURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "accuracy": lambda s: float(s["mark"]["correct"]) if s["mark"] else None,
    "partial": lambda s: s["mark"]["partial"] if s["mark"] else None,
    "reward": lambda s: s["reward"],
    "god": lambda s: s["order"][DEFAULT_GOD],
    "mdm_passes": lambda s: float(s["cost"]["mdm_passes"]),
    "reward_calls": lambda s: float(s["cost"]["reward_calls"]),
    "tokens": lambda s: float(s["cost"]["mdm_tokens"] + s["cost"]["reward_tokens"]),
    "seconds": lambda s: s["cost"]["seconds"],
}


def measures_of(runs: list[Run]) -> dict[str, Callable[[dict[str, Any]], float | None]]:
    """MEASURES, and the text measures that each sample of each run has an entry for."""
    names = [set(sample["measures"]) for run in runs for sample in run.samples.values()]
    common = set.intersection(*names)
    in_order = [name for name in next(iter(runs[0].samples.values()))["measures"] if name in common]
    return MEASURES | {name: _text_measure(name) for name in in_order}


def _text_measure(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda sample: sample["measures"][name]


def read_run(folder: Path) -> Run:
    manifest = read_json(folder / "manifest.json")
    samples = {sample["id"]: sample for sample in read_samples(folder)}
    marker = marker_version(manifest)
    return Run(folder, manifest["config"], manifest["status"], manifest["config_hash"], marker, samples)


def compare_runs(folders: list[Path]) -> list[Line]:
    """The lines of a comparison, in the order in which their settings first appear.

    Raises UsageError if the runs have no example in common, finished ones differ in their examples, an example in its
    prompt or reference, or runs in the version of the marker.
    """
    return compared([read_run(folder) for folder in folders])


def compared(runs: list[Run]) -> list[Line]:
    """compare_runs, of runs that are read."""
    from rws_cli.judges.contests import judge_labels

    ids = paired(runs)
    groups = by_settings(runs)
    labels = _labels([members[0].config for members in groups])
    measures = measures_of(runs)
    lines: list[Line] = []
    p_values: dict[int, float] = {}  # by line; there is none where nothing is marked
    baseline: dict[str, np.ndarray | None] = {}
    for label, members in zip(labels, groups, strict=True):
        columns = {name: column(members, ids, measure) for name, measure in measures.items()}
        if not lines:
            baseline = columns
        differences = {name: _difference(columns[name], baseline[name]) for name in measures}
        if lines and (in_accuracy := differences["accuracy"]) is not None:
            p_values[len(lines)] = difference_p(in_accuracy)
        lines.append(
            Line(
                label=label,
                seeds=[run.config["seed"] for run in members],
                examples=len(ids),
                values={name: None if c is None else float(c.mean()) for name, c in columns.items()},
                difference={
                    name: None if d is None or not lines else float(d.mean()) for name, d in differences.items()
                },
                interval={
                    name: None if d is None or not lines else bootstrap_interval(d) for name, d in differences.items()
                },
                wins=win_rates(members, groups[0], ids) if lines else {},
                folders=[run.folder for run in members],
            )
        )
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    judges = judge_labels(list(dict.fromkeys(judge for line in lines for judge in line.wins)))
    return [
        replace(line, p=adjusted.get(n), wins={judges[judge]: rate for judge, rate in line.wins.items()})
        for n, line in enumerate(lines)
    ]


def by_task(folders: list[Path]) -> list[list[Path]]:
    """Folders of runs, those of one benchmark and model together."""
    tasks: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        config = read_json(folder / "manifest.json")["config"]
        tasks.setdefault((config["benchmark"]["name"], config["model"]["name"]), []).append(folder)
    return list(tasks.values())


def judge_runs(folders: list[Path], settings: Any) -> None:
    """Put each line's runs to a judge, against the run of the first line with the same seed (the first of it, if none).

    Raises what compare_runs and judge_run do.
    """
    from rws_cli.judges.contests import judge_run

    runs = [read_run(folder) for folder in folders]
    paired(runs)
    first, *others = by_settings(runs)
    for run in (run for members in others for run in members):
        base = opponent(run, first)
        judge_run(settings, run.folder, base.folder, run.samples, base.samples)


def opponent(run: Run, baseline: list[Run]) -> Run:
    return next((base for base in baseline if base.config["seed"] == run.config["seed"]), baseline[0])


def win_rates(members: list[Run], baseline: list[Run], ids: list[str]) -> dict[str, WinRate]:
    """By judge (contests.identity_of), what the verdicts on a line's runs come to."""
    from rws_cli.judges.contests import read_verdicts

    found: dict[str, list[Any]] = {}
    for run in members:
        base = opponent(run, baseline)
        for judge, verdicts in read_verdicts(run.folder, base.config_hash, run.samples, base.samples).items():
            for i in ids:
                if i in verdicts:
                    sample = run.samples[i]
                    found.setdefault(judge, []).append((sample["question"], verdicts[i], sample["order"][DEFAULT_GOD]))
    asked = len(ids) * len(members)
    rates = {judge: win_rate(verdicts, asked - len(verdicts)) for judge, verdicts in found.items()}
    return {judge: rate for judge, rate in rates.items() if rate}


def paired(runs: list[Run]) -> list[str]:
    ids = [i for i in runs[0].samples if all(i in run.samples for run in runs)]
    if not ids:
        raise UsageError(
            f"{shown(runs[0].folder)} and the others have no example in common: compare runs of the same benchmark and seed of it."
        )
    whole = [run for run in runs if run.status == "finished"]
    for run in whole[1:]:
        if run.samples.keys() != whole[0].samples.keys():
            common = len(run.samples.keys() & whole[0].samples.keys())
            raise UsageError(
                f"{shown(run.folder)} has {len(run.samples)} examples and {shown(whole[0].folder)} "
                f"{len(whole[0].samples)}, {common} in common: compare finished runs of the same examples."
            )
    for run in runs[1:]:
        if run.marker != runs[0].marker:
            older = min(run, runs[0], key=lambda one: one.marker)
            raise UsageError(
                f"{shown(run.folder)} was marked by version {run.marker} of its marker, {shown(runs[0].folder)} by "
                f"version {runs[0].marker}: mark the older one again with rws mark {shown(older.folder)}"
            )
        for i in ids:
            for what in ("prompt", "reference"):
                if run.samples[i][what] != runs[0].samples[i][what]:
                    raise UsageError(
                        f"Example {i} has another {what} in {shown(run.folder)} than in {shown(runs[0].folder)}."
                    )
    return ids


def by_settings(runs: list[Run]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in identity(run.config).items() if key != "seed"}
        groups.setdefault(repr(sorted(settings.items())), []).append(run)
    return list(groups.values())


def _labels(configs: list[dict[str, Any]]) -> list[str]:
    """The label that a run was given, or its sampler's name; and what else tells a line from the others of that name."""

    def called(config: dict[str, Any]) -> str:
        return config.get("label") or config["sampler"]["name"]

    labels = []
    for config in configs:
        name = called(config)
        others = [c for c in configs if c is not config and called(c) == name]
        keys: dict[str, Any] = {}
        for other in others:
            for key, (value, _) in differing_keys(identity(config), identity(other)).items():
                if key != "seed":
                    keys[key] = value
        group_names = [key for key in keys if key in ("model.name", "reward.name", "benchmark.name")]
        shown_keys = group_names or list(keys)
        details = ", ".join(f"{key.removesuffix('.name').removeprefix('sampler.')}={keys[key]}" for key in shown_keys)
        labels.append(f"{name} ({details})" if details else name)
    return labels


def column(runs: list[Run], ids: list[str], measure: Any) -> np.ndarray | None:
    """A measure for each question, averaged over its answers and the runs (seeds) of a line; None where undefined."""
    import numpy as np

    values: dict[str, list[float | None]] = {}
    for i in ids:
        values.setdefault(runs[0].samples[i]["question"], []).extend(measure(run.samples[i]) for run in runs)
    if any(value is None for row in values.values() for value in row):
        return None
    return np.array([np.mean(np.asarray(row, dtype=float)) for row in values.values()])


def _difference(column: np.ndarray | None, baseline: np.ndarray | None) -> np.ndarray | None:
    return None if column is None or baseline is None else column - baseline
