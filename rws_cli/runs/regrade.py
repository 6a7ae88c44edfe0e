"""Grade or measure a run's completions again, with the current graders and metrics, without decoding."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rws_cli import __version__
from rws_cli.benchmarks.base import Benchmark, Example, grade_completion
from rws_cli.config.check import CONSENT, check, check_consent
from rws_cli.config.composing import compose
from rws_cli.config.keys import unknown_key
from rws_cli.config.renamed import SCHEMA, renamed_override
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.files import as_json
from rws_cli.runs.folder import replace_together, run_lock
from rws_cli.runs.manifest import check_parts, grader_version, now
from rws_cli.runs.prepared import benchmark_source
from rws_cli.runs.records import SAMPLES, as_lines, read_finished
from rws_cli.runs.run import summarize_with_metrics
from rws_cli.runs.stopping import stoppable
from rws_cli.runs.upgrade import read_manifest, upgrade


def regrade(run: Path, overrides: list[str]) -> int:
    """Replace the grades in samples.jsonl and metrics.json, and record it in the manifest; returns how many changed.

    If the grader has another version or any grade changes, the samples keep their old grades as `grades_before`.
    overrides: changed settings of the benchmark, "benchmark.key=value". Raises UsageError for other settings, for a run
    that is not finished, and if the benchmark's examples have changed since the run.
    """
    with run_lock(run):
        manifest = _finished(run)
        overrides = list(map(renamed_override, overrides))
        for override in overrides:
            key = override.partition("=")[0]
            if not key.startswith("benchmark.") or "=" not in override:
                raise UsageError(f"{override} cannot be set when grading: set benchmark.key=value.")
            if OmegaConf.select(OmegaConf.create(manifest["config"]), key, default="") == "":
                raise UsageError(unknown_key(key))
        config = check(OmegaConf.merge(manifest["config"], OmegaConf.from_dotlist(overrides)))  # type: ignore[arg-type]
        benchmark, examples = _examples(config, overrides)
        (samples, before), version = read_finished(run), grader_version(manifest)
        _check_same(run, samples, examples, benchmark.version == version)
        with stoppable() as stop, stop.raising():  # nothing is written until all are graded
            grades = [grade_completion(benchmark, examples[sample["id"]], sample) for sample in samples]
        changed = sum(new != sample["grade"] for new, sample in zip(grades, samples, strict=True))
        for new, sample in zip(grades, samples, strict=True):
            if changed or benchmark.version != version:  # so that all samples have the same fields
                old = {"version": version, "grade": sample["grade"]}
                sample["grades_before"] = [*sample.get("grades_before", []), old]
            sample |= {"grade": new, "reference": examples[sample["id"]].reference}
        manifest.setdefault("graded", []).append(
            {"at": now(), "rws": __version__, "grader": benchmark.version, "grader_before": version,
             "overrides": overrides, "changed": changed}
        )  # fmt: skip
        manifest["sources"]["benchmark"] = benchmark_source(benchmark, list(examples.values()))
        _replace(run, samples, before, summarize_with_metrics({}, list(examples.values()), samples, config), manifest)
    return changed


def measure(run: Path, overrides: list[str]) -> None:
    """Measure a finished run's completions with the metrics that overrides name, "metric=[…]"; earlier measures stay.

    Raises UsageError as regrade does, and if no metric is named.
    """
    chosen = [override for override in overrides if not override.startswith(CONSENT)]
    for override in chosen:
        if not override.lstrip("+").startswith("metric"):
            raise UsageError(f"{override} cannot be set when measuring: set metric=[…] or metric.name.key=value.")
    metrics = compose(*chosen).metric
    if not metrics:
        raise UsageError("No metric is chosen: set metric=[length,diversity], for example; rws list metric shows all.")
    with run_lock(run):
        manifest = _finished(run)
        config = check(OmegaConf.create(manifest["config"]))
        benchmark, examples = _examples(config, overrides)
        samples, before = read_finished(run)
        _check_same(run, samples, examples, grader_version(manifest) == benchmark.version)
        named = {name: asdict(metric) for name, metric in metrics.items()}
        manifest.setdefault("summarize_with_metrics", []).append({"at": now(), "rws": __version__, "metrics": named})
        _replace(
            run, samples, before, summarize_with_metrics(metrics, list(examples.values()), samples, config), manifest
        )


def _finished(run: Path) -> dict[str, Any]:
    manifest = read_manifest(run)
    if manifest["status"] != "finished":
        raise UsageError(f"{run} is {manifest['status']}: finish it with rws run --resume {run} first.")
    check_parts(run, manifest)
    upgrade(run)
    return manifest | {"schema": SCHEMA}


def _examples(config: Config, typed: list[str]) -> tuple[Benchmark, dict[str, Example]]:
    """The benchmark and its examples. Raises UsageError if they need consent that was not typed."""
    check_consent(config, typed, "benchmark.")
    return config.benchmark, {e.id: e for e in config.benchmark.repeated()}


def _check_same(run: Path, samples: Iterable[dict[str, Any]], examples: dict[str, Example], same_version: bool) -> None:
    """Raises UsageError if the data changed. References may differ in form if the benchmark's version does."""
    for sample in samples:
        example = examples.get(sample["id"])
        if (
            example is None
            or example.prompt != sample["prompt"]
            or (same_version and example.reference != sample["reference"])
        ):
            raise UsageError(
                f"{run} cannot be processed: example {sample['id']} has changed since the run. Restore its data."
            )


def _replace(
    run: Path, samples: list[dict[str, Any]], before: dict[str, Any], metrics: dict[str, Any], manifest: dict[str, Any]
) -> None:
    """Replace the three files together; the run's cost and measures that were not made again are kept."""
    metrics = before | metrics | {"cost": before["cost"], "measures": before["measures"] | metrics["measures"]}
    files = {SAMPLES: as_lines(samples), "metrics.json": as_json(metrics), "manifest.json": as_json(manifest)}
    replace_together(run, files)
