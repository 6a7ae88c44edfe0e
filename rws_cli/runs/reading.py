"""Read run folders for comparisons and reports."""

from collections.abc import Iterable
from pathlib import Path

from rws_cli.analysis.compare import Line, compared
from rws_cli.analysis.run import Run
from rws_cli.errors import RunError
from rws_cli.runs.folder import find_all, read_json
from rws_cli.runs.manifest import grader_version
from rws_cli.runs.records import SAMPLES, TRACE, read_lines, read_samples, trace_table
from rws_cli.runs.upgrade import read_manifest

JUDGEMENTS = "judgements"
"""In a run's folder: a folder per judge, with judge.json and verdicts.jsonl."""


def read_run(folder: Path, traced: bool = False, examples: bool = True) -> Run:
    """A run, as far as it is finished. traced: with its trace, and only the samples that have one. examples: with samples.

    Raises RunError for invalid files, and for a trace that does not match the samples.
    """
    manifest = read_manifest(folder)
    samples = {sample["id"]: sample for sample in read_samples(folder)} if examples else {}
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else None
    judged = [
        read_json(file) | {"verdicts": read_lines(file.parent / "verdicts.jsonl")}
        for file in sorted((folder / JUDGEMENTS).glob("*/judge.json"))
    ]
    trace = None
    if traced:
        trace = trace_table(folder)
        row_of = {example: n for n, example in enumerate(trace["id"].to_pylist())}
        samples = {i: sample for i, sample in samples.items() if i in row_of}
        trace = trace.take([row_of[i] for i in samples]) if samples else trace.slice(0, 0)
        for sample, positions in zip(samples.values(), trace["position"].to_pylist(), strict=True):
            if max(positions, default=0) >= len(sample["tokens"]):
                raise RunError(
                    f"{folder / TRACE} does not match {folder / SAMPLES}: example {sample['id']} has fewer tokens there."
                )
    return Run(folder, manifest, grader_version(manifest), samples, metrics, judged, trace)


def by_task(paths: Iterable[Path | str]) -> list[list[Path]]:
    """The runs at several paths, grouped by benchmark and model."""
    tasks: dict[tuple[str, str], list[Path]] = {}
    for folder in find_all(paths):
        config = read_json(folder / "manifest.json")["config"]
        tasks.setdefault((config["benchmark"]["name"], config["model"]["name"]), []).append(folder)
    return list(tasks.values())


def compare_runs(folders: Iterable[Path]) -> list[Line]:
    """Read and compare runs. Raises what read_run and compared raise."""
    return compared([read_run(folder) for folder in folders])
