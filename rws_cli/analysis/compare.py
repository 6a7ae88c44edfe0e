"""Compares runs on the same examples: paired differences with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.measure import Measure
from rws_cli.analysis.measures import MEASURES, paired_measures
from rws_cli.analysis.run import Run
from rws_cli.analysis.statistics import Interval, bootstrap_interval, difference_p, grouped, holm, mean_interval
from rws_cli.analysis.verdicts import judge_labels, verdicts_against
from rws_cli.analysis.win_rate import WinRate, win_rate
from rws_cli.config.identity import differing_keys, identity
from rws_cli.errors import UsageError, display_path

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Cell:
    """A mean over examples, and its difference to the first line with the 95 % interval of that difference: the
    paired bootstrap's over examples, None for a single one. Without a difference, the interval is the value's own.
    published: a paper's number."""

    value: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    published: Any = None


def alone(run: Run) -> dict[str, Cell]:
    """The measures of a single run, over the questions for which each is defined."""
    columns = {name: column([run], list(run.samples), measure, True) for name, measure in measures_of([run]).items()}
    defined = {name: values for name, values in columns.items() if values is not None}
    return {name: Cell(float(values.mean()), None, mean_interval(values)) for name, values in defined.items()}


@dataclass(frozen=True)
class Line:
    """One line of a comparison: runs that differ only in the seed, averaged within each example.

    cells: by measure. p: of the difference in accuracy (statistics.difference_p), adjusted by Holm's method for the
    number of lines. wins: by judge, the win rate against the first line, if there are verdicts; judges with the same
    name are labeled by the settings that differ (verdicts.judge_labels).
    """

    label: str
    runs: list[Run]
    examples: int
    cells: dict[str, Cell]
    p: float | None = None
    wins: dict[str, WinRate] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return [run.config["seed"] for run in self.runs]


def compared(runs: list[Run]) -> list[Line]:
    """The lines of a comparison, in the order in which their settings first appear.

    Raises UsageError if the runs have no example in common, finished ones differ in their examples, an example in its
    prompt or reference, or runs in the version of the grader.
    """
    ids, groups = paired(runs), by_settings(runs)
    measures = measures_of(runs)
    columns = [{name: column(group, ids, measure) for name, measure in measures.items()} for group in groups]
    first, graded = columns[0], [n for n, values in enumerate(columns) if n and values["accuracy"] is not None]
    p_values = [
        difference_p(columns[n]["accuracy"] - first["accuracy"]) for n in graded if first["accuracy"] is not None
    ]
    adjusted = dict(zip(graded, holm(p_values), strict=False))
    wins = [win_rates(group, groups[0], ids) if n else {} for n, group in enumerate(groups)]
    judges = judge_labels(list(dict.fromkeys(judge for rates in wins for judge in rates)))
    return [
        Line(
            label=label,
            runs=group,
            examples=len(ids),
            cells={name: _cell(values, first[name] if n else None) for name, values in columns[n].items()},
            p=adjusted.get(n),
            wins={judges[judge]: rate for judge, rate in wins[n].items()},
        )
        for n, (label, group) in enumerate(zip(_labels(groups), groups, strict=True))
    ]


def _cell(values: np.ndarray | None, baseline: np.ndarray | None) -> Cell:
    if values is None or baseline is None:
        return Cell(None if values is None else float(values.mean()))
    difference = values - baseline
    return Cell(float(values.mean()), float(difference.mean()), bootstrap_interval(difference))


def column(runs: list[Run], ids: list[str], measure: Measure, skip: bool = False) -> np.ndarray | None:
    """The values of a measure by question, averaged over completions and seeds. None if it is not defined for all of
    them; skip: leave out undefined values, and return None if no value is left."""
    import numpy as np

    values: dict[str, list[float]] = {}
    for i in ids:
        for value in (measure.of_sample(run.samples[i]) for run in runs):
            if value is not None:
                values.setdefault(runs[0].samples[i]["question"], []).append(value)
            elif not skip:
                return None
    return np.array([np.mean(np.asarray(found, dtype=float)) for found in values.values()]) if values else None


def measures_of(runs: list[Run]) -> dict[str, Measure]:
    """The measures by which these runs are compared."""
    samples = [sample for run in runs for sample in run.samples.values()]
    return paired_measures(samples, runs[0].config.get("metric"))


def opponent(run: Run, baseline: list[Run]) -> Run:
    """The run of the first line to compare with: the one with the same seed, else the first."""
    return next((base for base in baseline if base.config["seed"] == run.config["seed"]), baseline[0])


def win_rates(members: list[Run], baseline: list[Run], ids: list[str]) -> dict[str, WinRate]:
    """Win rates of a line's runs, by judge (verdicts.identity_of)."""
    verdicts_by_judge: dict[str, list[Any]] = {}
    for run in members:
        for judge, verdicts in verdicts_against(run, opponent(run, baseline)).items():
            for sample in (run.samples[i] for i in ids if i in verdicts):
                verdict = (sample["question"], verdicts[sample["id"]], MEASURES["god"].of_sample(sample))
                verdicts_by_judge.setdefault(judge, []).append(verdict)
    asked = len(ids) * len(members)
    rates = {judge: win_rate(verdicts, asked - len(verdicts)) for judge, verdicts in verdicts_by_judge.items()}
    return {judge: rate for judge, rate in rates.items() if rate}


def paired(runs: list[Run]) -> list[str]:
    """The examples that all runs share. Raises UsageError as `compared` does."""
    first, ids = runs[0], common(runs)
    if not ids:
        raise UsageError(
            f"{display_path(first.folder)} and the others have no example in common: compare runs of the same benchmark and seed of it."
        )
    whole = [run for run in runs if run.manifest["status"] == "finished"]
    for run in whole[1:]:
        if run.samples.keys() != whole[0].samples.keys():
            both = len(run.samples.keys() & whole[0].samples.keys())
            raise UsageError(
                f"{display_path(run.folder)} has {len(run.samples)} examples and {display_path(whole[0].folder)} "
                f"{len(whole[0].samples)}, {both} in common: compare finished runs of the same examples."
            )
    for run in runs[1:]:
        if run.grader != first.grader:
            older = min(run, first, key=lambda one: one.grader)
            raise UsageError(
                f"{display_path(run.folder)} was graded by version {run.grader} of its grader, {display_path(first.folder)} by "
                f"version {first.grader}: grade the older one again with rws grade {display_path(older.folder)}"
            )
        for i, what in ((i, what) for i in ids for what in ("prompt", "reference")):
            if run.samples[i][what] != first.samples[i][what]:
                raise UsageError(
                    f"Example {i} has another {what} in {display_path(run.folder)} than in {display_path(first.folder)}."
                )
    return ids


def common(runs: list[Run]) -> list[str]:
    """The examples that all runs share, in the order of the first run."""
    return [i for i in runs[0].samples if all(i in run.samples for run in runs)]


def by_settings(runs: list[Run]) -> list[list[Run]]:
    """Groups of runs that differ only in the seed."""
    settings = [sorted((key, value) for key, value in identity(run.config).items() if key != "seed") for run in runs]
    return list(grouped(map(repr, settings), runs).values())


def differing_settings(run: Run, others: list[Run]) -> dict[str, Any]:
    """The settings in which a run differs from any of the others, by dotted key; the seed is left out."""
    settings: dict[str, Any] = {}
    for other in others:
        settings |= {
            key: value for key, (value, _) in differing_keys(identity(run.config), identity(other.config)).items()
        }
    settings.pop("seed", None)
    return settings


def _labels(groups: list[list[Run]]) -> list[str]:
    """A label for each line: its name, and the settings in which it differs from lines of the same name."""
    firsts, labels = [members[0] for members in groups], []
    for run in firsts:
        keys = differing_settings(run, [other for other in firsts if other is not run and other.name == run.name])
        group_names = [key for key in keys if key in ("model.name", "reward.name", "benchmark.name")]
        details = ", ".join(
            f"{key.removesuffix('.name').removeprefix('sampler.')}={keys[key]}" for key in group_names or keys
        )
        labels.append(f"{run.name} ({details})" if details else run.name)
    return labels
