"""Mark or measure a run's answers again, by today's markers and metrics, without decoding anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rws_cli import __version__
from rws_cli.benchmarks import load_benchmark
from rws_cli.benchmarks.base import Benchmark, Example, answered
from rws_cli.config import check, compose, unknown_key
from rws_cli.errors import UsageError
from rws_cli.experiment import measured
from rws_cli.runs.folder import read_json, write_json
from rws_cli.runs.manifest import now
from rws_cli.runs.records import read_samples, replace_samples
from rws_cli.runs.stopping import stoppable
from rws_cli.schema import Config


def mark(run: Path, overrides: list[str]) -> int:
    """Replace the marks in samples.jsonl and metrics.json, note it in the manifest; returns how many marks changed.

    overrides: settings of the benchmark, "benchmark.key=value", that are to differ from the run's. Raises UsageError
    for other settings, for a run that is not finished, and where the benchmark's examples are no longer the run's.
    """
    manifest = _finished(run)
    for override in overrides:
        key = override.partition("=")[0]
        if not key.startswith("benchmark.") or "=" not in override:
            raise UsageError(f"{override} cannot be set when marking: write benchmark.key=value.")
        if OmegaConf.select(OmegaConf.create(manifest["config"]), key, default="") == "":
            raise UsageError(unknown_key(key))
    config = check(OmegaConf.merge(manifest["config"], OmegaConf.from_dotlist(overrides)))  # type: ignore[arg-type]
    benchmark, examples = _examples(config)
    samples, changed = read_samples(run), 0
    _check_same(run, samples, examples)
    with stoppable() as stop, stop.raising():  # nothing is written before all are marked
        for sample in samples:
            found = benchmark.mark(examples[sample["id"]], sample["answer"])
            new = asdict(found) if found else None
            changed += new != sample["mark"]
            sample["mark"] = new
    replace_samples(run, samples)
    _finish(run, measured(run, {}, list(examples.values()), samples))
    manifest.setdefault("marked", []).append(
        {"at": now(), "rws": __version__, "marker": benchmark.version, "overrides": overrides, "changed": changed}
    )
    write_json(run / "manifest.json", manifest)
    return changed


def measure(run: Path, overrides: list[str]) -> None:
    """Measure a finished run's answers with the metrics that overrides name, "metric=[…]"; earlier measures stay.

    Raises UsageError as mark does, and if no metric is named.
    """
    manifest = _finished(run)
    for override in overrides:
        if not override.lstrip("+").startswith("metric"):
            raise UsageError(f"{override} cannot be set when measuring: write metric=[…] or metric.name.key=value.")
    metrics = compose(*overrides).metric
    if not metrics:
        raise UsageError("No metric is named: write metric=[length,diversity], for example; rws list metric shows all.")
    _, examples = _examples(check(OmegaConf.create(manifest["config"])))
    samples = read_samples(run)
    _check_same(run, samples, examples)
    _finish(run, measured(run, metrics, list(examples.values()), samples))
    named = {name: asdict(metric) for name, metric in metrics.items()}
    manifest.setdefault("measured", []).append({"at": now(), "rws": __version__, "metrics": named})
    write_json(run / "manifest.json", manifest)


def _finished(run: Path) -> dict[str, Any]:
    manifest = read_json(run / "manifest.json")
    if manifest["status"] != "finished":
        raise UsageError(f"{run} is {manifest['status']}: finish it with rws run --resume {run} first.")
    return manifest


def _examples(config: Config) -> tuple[Benchmark, dict[str, Example]]:
    benchmark = load_benchmark(config.benchmark)
    return benchmark, {e.id: e for e in answered(benchmark.examples(), config.benchmark.answers)}


def _check_same(run: Path, samples: Iterable[dict[str, Any]], examples: dict[str, Example]) -> None:
    for sample in samples:
        example = examples.get(sample["id"])
        # A marker's later version may know that the data have no reference.
        same = example and example.prompt == sample["prompt"] and example.reference in ("", sample["reference"])
        if not same:
            raise UsageError(f"{run} cannot be read again: example {sample['id']} is not what it was.")


def _finish(run: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json with the cost of the run, which is not paid again, and measures that were not made again."""
    before = read_json(run / "metrics.json")
    metrics["cost"], metrics["measures"] = before["cost"], before["measures"] | metrics["measures"]
    write_json(run / "metrics.json", metrics)
