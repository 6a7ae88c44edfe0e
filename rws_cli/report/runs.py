"""Runs in a report, each with a label and a color."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rws_cli.analysis.compare import Line, compared
from rws_cli.analysis.run import Run, Sample
from rws_cli.errors import RunError
from rws_cli.report.colors import RUNS
from rws_cli.runs.reading import read_run


@dataclass(frozen=True)
class ReportRun:
    run: Run
    label: str
    color: str

    @property
    def config(self) -> dict[str, Any]:
        return self.run.config

    @property
    def samples(self) -> list[Sample]:
        return list(self.run.samples.values())


def load_report_runs(folders: list[Path]) -> tuple[list[ReportRun], list[Line]]:
    """Runs of one benchmark and model with their traces, and how they compare (nothing, for one alone).

    Raises RunError if a run has no example that is done, and what compared does.
    """
    runs = [read_run(folder, traced=True) for folder in folders]
    if empty := next((run for run in runs if not run.samples), None):
        raise RunError(f"{empty.folder} has no example that is done: there is nothing to show.")
    lines = compared(runs) if len(runs) > 1 else []
    labels = {
        run.folder: line.label if len(line.runs) == 1 else f"{line.label}, seed {run.config['seed']}"
        for line in lines
        for run in line.runs
    }
    return [ReportRun(run, labels.get(run.folder, run.name), RUNS[n % len(RUNS)]) for n, run in enumerate(runs)], lines
