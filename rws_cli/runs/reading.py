"""Run folders, read for what compares and shows them."""

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
"""In a run's folder, a folder for each judge: judge.json and verdicts.jsonl."""


def read_run(folder: Path, traced: bool = False, examples: bool = True) -> Run:
    """A run as far as it is done. traced: with its trace, and of the samples those that have one. examples: with its
    samples.

    Raises RunError for files that do not hold what they should; of a traced run, also if they do not go together.
    """
    manifest = read_manifest(folder)
    samples = {sample["id"]: sample for sample in read_samples(folder)} if examples else {}
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else None
    judged = [
        read_json(about) | {"verdicts": read_lines(about.parent / "verdicts.jsonl")}
        for about in sorted((folder / JUDGEMENTS).glob("*/judge.json"))
    ]
    trace = None
    if traced:
        trace = trace_table(folder)
        places = {example: n for n, example in enumerate(trace["id"].to_pylist())}
        samples = {i: sample for i, sample in samples.items() if i in places}
        trace = trace.take([places[i] for i in samples]) if samples else trace.slice(0, 0)
        for sample, positions in zip(samples.values(), trace["position"].to_pylist(), strict=True):
            if max(positions, default=0) >= len(sample["tokens"]):
                raise RunError(
                    f"{folder / TRACE} does not go with {folder / SAMPLES}: example {sample['id']} has fewer tokens."
                )
    return Run(folder, manifest, grader_version(manifest), samples, metrics, judged, trace)


def by_task(paths: Iterable[Path | str]) -> list[list[Path]]:
    """The runs that paths name, those of one benchmark and model together."""
    tasks: dict[tuple[str, str], list[Path]] = {}
    for folder in find_all(paths):
        config = read_json(folder / "manifest.json")["config"]
        tasks.setdefault((config["benchmark"]["name"], config["model"]["name"]), []).append(folder)
    return list(tasks.values())


def compare_runs(folders: Iterable[Path]) -> list[Line]:
    """Runs side by side. Raises what read_run and compared do."""
    return compared([read_run(folder) for folder in folders])
