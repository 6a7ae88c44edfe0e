"""Runs as reports show them: what was recorded, with a name and a color for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rws_cli.analysis.compare import Line, Run, compared, read_run
from rws_cli.analysis.story import Story, tell
from rws_cli.errors import RunError
from rws_cli.report.colors import RUNS
from rws_cli.runs.folder import read_json
from rws_cli.runs.records import read_decodings


@dataclass(frozen=True)
class Shown:
    """A run. row: that of the trace, by example."""

    run: Run
    label: str
    color: str
    manifest: dict[str, Any]
    row: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def config(self) -> dict[str, Any]:
        return self.run.config

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return list(self.run.samples.values())

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of the trace, in the order of the samples."""
        return [self.row[example] for example in self.run.samples]

    def story(self, example: str) -> Story:
        return tell(self.row[example], self.run.samples[example])


def common(shown: list[Shown]) -> list[str]:
    """The examples that all runs have, in the order of the first."""
    return [i for i in shown[0].run.samples if all(i in run.run.samples for run in shown)]


def read_shown(folders: list[Path]) -> tuple[list[Shown], list[Line]]:
    """Runs of one benchmark and model, and how they compare (nothing, for one alone).

    Raises RunError if a run has no example that is done, and what compare_runs does.
    """
    runs, traces = [], []
    for folder in folders:
        samples, row = read_decodings(folder)
        run = replace(read_run(folder), samples=samples)
        if not run.samples:
            raise RunError(f"{folder} has no example that is done: there is nothing to show.")
        runs.append(run)
        traces.append(row)
    lines = compared(runs) if len(runs) > 1 else []
    labels: dict[Path, str] = {}
    for line in lines:
        for folder, seed in zip(line.folders, line.seeds, strict=True):
            labels[folder] = line.label if len(line.seeds) == 1 else f"{line.label}, seed {seed}"
    found = []
    for n, (run, row) in enumerate(zip(runs, traces, strict=True)):
        label = labels.get(run.folder) or run.config.get("label") or run.config["sampler"]["name"]
        manifest = read_json(run.folder / "manifest.json")
        found.append(Shown(run, label, RUNS[n % len(RUNS)], manifest, row))
    return found, lines
