"""Runs as reports show them: what was recorded, with a name and a color for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError
from rws_cli.report.colors import RUNS
from rws_cli.report.compare import Line, compare_runs
from rws_cli.report.story import Story, tell
from rws_cli.runs.folder import read_json
from rws_cli.runs.records import read_samples, read_trace


@dataclass(frozen=True)
class Shown:
    """A run. samples and rows of the trace are those of the same examples, in the same order."""

    folder: Path
    label: str
    color: str
    manifest: dict[str, Any]
    samples: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @cached_property
    def place(self) -> dict[str, int]:
        return {sample["id"]: n for n, sample in enumerate(self.samples)}

    def story(self, example: str) -> Story | None:
        n = self.place.get(example)
        return None if n is None else tell(self.rows[n], self.samples[n])


def read_shown(folders: list[Path]) -> tuple[list[Shown], list[Line]]:
    """Runs of one benchmark and model, and how they compare (nothing, for one alone).

    Raises RunError if a run has no example that is done, and what compare_runs does.
    """
    lines = compare_runs(folders) if len(folders) > 1 else []
    labels: dict[Path, str] = {}
    for line in lines:
        for folder, seed in zip(line.folders, line.seeds, strict=True):
            labels[folder] = line.label if len(line.seeds) == 1 else f"{line.label}, seed {seed}"
    found = []
    for n, folder in enumerate(folders):
        manifest = read_json(folder / "manifest.json")
        rows = {row["id"]: row for row in read_trace(folder)}
        samples = [sample for sample in read_samples(folder) if sample["id"] in rows]
        if not samples:
            raise RunError(f"{folder} has no example that is done: there is nothing to show.")
        config = manifest["config"]
        label = labels.get(folder) or config.get("label") or config["sampler"]["name"]
        traces = [rows[sample["id"]] for sample in samples]
        found.append(Shown(folder, label, RUNS[n % len(RUNS)], manifest, samples, traces))
    return found, lines
