"""Mark a run's answers again, by today's markers, without decoding anything."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from rws_cli import __version__
from rws_cli.benchmarks import load_benchmark
from rws_cli.benchmarks.base import answered
from rws_cli.config import check, unknown_key
from rws_cli.errors import UsageError
from rws_cli.metrics.summary import summarize
from rws_cli.runs.folder import read_json, write_json, write_whole
from rws_cli.runs.manifest import now
from rws_cli.runs.records import SAMPLES, read_samples


def remark(run: Path, overrides: list[str]) -> int:
    """Replace the marks in samples.jsonl and metrics.json, note it in the manifest; returns how many marks changed.

    overrides: settings of the benchmark, "benchmark.key=value", that are to differ from the run's. Raises UsageError
    for other settings, for a run that is not finished, and where the benchmark's examples are no longer the run's.
    """
    manifest = read_json(run / "manifest.json")
    if manifest["status"] != "finished":
        raise UsageError(f"{run} is {manifest['status']}: finish it with rws run --resume {run}, then mark it again.")
    for override in overrides:
        key = override.partition("=")[0]
        if not key.startswith("benchmark.") or "=" not in override:
            raise UsageError(f"{override} cannot be set when marking: write benchmark.key=value.")
        if OmegaConf.select(OmegaConf.create(manifest["config"]), key, default="") == "":
            raise UsageError(unknown_key(key))
    config = check(OmegaConf.merge(manifest["config"], OmegaConf.from_dotlist(overrides)))  # type: ignore[arg-type]
    benchmark = load_benchmark(config.benchmark)
    examples = {example.id: example for example in answered(benchmark.examples(), config.benchmark.answers)}
    samples, changed = read_samples(run), 0
    for sample in samples:
        example = examples.get(sample["id"])
        if example is None or (example.prompt, example.reference) != (sample["prompt"], sample["reference"]):
            raise UsageError(f"{run} cannot be marked again: example {sample['id']} is not what it was.")
        found = benchmark.mark(example, sample["answer"])
        mark = asdict(found) if found else None
        changed += mark != sample["mark"]
        sample["mark"] = mark
    write_whole(run / SAMPLES, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    metrics = summarize(samples)
    metrics["cost"] = read_json(run / "metrics.json")["cost"]
    write_json(run / "metrics.json", metrics)
    manifest.setdefault("marked", []).append(
        {"at": now(), "rws": __version__, "marker": benchmark.version, "overrides": overrides, "changed": changed}
    )
    write_json(run / "manifest.json", manifest)
    return changed
