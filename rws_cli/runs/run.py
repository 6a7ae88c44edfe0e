"""One run, from a checked configuration to a finished run folder."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rws_cli.analysis.summary import peak_memory, summarize
from rws_cli.benchmarks.base import Example, grade_completion
from rws_cli.config.schema import Config
from rws_cli.errors import Interrupted, RunError
from rws_cli.files import write_json
from rws_cli.metrics.base import Metric
from rws_cli.metrics.measure import measure
from rws_cli.runs.batch_decoder import Outcome, rows_at_once
from rws_cli.runs.folder import run_lock
from rws_cli.runs.manifest import Request, open_run, record_status, resumable
from rws_cli.runs.plan import judging_cost
from rws_cli.runs.prepared import PreparedRun, prepare
from rws_cli.runs.progress import Progress
from rws_cli.runs.records import (
    SAMPLES,
    append_lines,
    join_trace,
    read_samples,
    replace_samples,
    write_failures,
    write_trace_part,
)
from rws_cli.runs.stopping import Stop, stoppable
from rws_cli.runs.tracking import tracked
from rws_cli.workers import open_workers
from rws_cli.workers.base import Workers


def run(config: Config, request: Request) -> Path:
    """Decode and grade a benchmark, and write the run folder; returns it.

    Examples that fail are left out and listed in failures.jsonl and the manifest. Raises UsageError, before weights are
    loaded, if a checkpoint is missing or the run to resume has another configuration or is still running; RunError if the
    run fails; Interrupted if the user stops it. Finished examples are kept, and the manifest records the reason.
    """
    started = time.perf_counter()
    stopped = resumable(request.resume, config) if request.resume else None
    prepared = prepare(config)
    notices = [*prepared.warnings, *judging_cost(config, prepared)]
    with run_lock(request.resume), open_workers(config, prepared) as workers:
        folder, manifest = open_run(config, request, stopped, workers.sources)
        record_cost = cost_recorder(folder, manifest, started)
        with (
            run_lock(None if request.resume else folder),
            record_status(folder, manifest),
            stoppable() as stop,
            tracked(config, folder, manifest) as tracking,
        ):
            samples = read_samples(folder)
            place = {example.id: n for n, example in enumerate(prepared.examples)}
            if strange := [sample["id"] for sample in samples if sample["id"] not in place]:
                raise RunError(
                    f"{folder / SAMPLES} has {strange[0]}, which is not an example of {config.benchmark.name}."
                )
            with Progress(len(prepared.examples), samples, folder / "run.log", request.quiet) as progress:
                tracking.follow(samples, progress)
                for notice in notices:
                    progress.notify(notice)
                failures = decode_examples(config, prepared, workers, folder, samples, progress, stop, record_cost)
            if not samples:
                raise RunError(f"All examples failed, the first because: {next(iter(failures.values()))}")
            samples.sort(key=lambda sample: place[sample["id"]])
            replace_samples(folder, samples)
            join_trace(folder, list(place))
            metrics = summarize_with_metrics(config.metric, prepared.examples, samples, config) | {
                "failed": len(failures)
            }
            if any(sample["measures"] for sample in samples):
                replace_samples(folder, samples)
            record_cost()
            metrics["cost"] |= manifest["spent"]
            write_json(folder / "metrics.json", metrics)
            tracking.finish(metrics)
            manifest["failed"] = failures
    return folder


SHARES = 4
"""About how many batches each of several workers gets."""


def cost_recorder(folder: Path, manifest: dict[str, Any], started: float) -> Callable[[], None]:
    """A function that writes the run's time and memory so far to the manifest, including earlier, interrupted parts."""
    setup_seconds = time.perf_counter() - started
    before = manifest.get("spent", {"setup_seconds": 0.0, "run_seconds": 0.0, "peak_memory_bytes": 0})

    def record() -> None:
        manifest["spent"] = {
            "setup_seconds": before["setup_seconds"] + setup_seconds,
            "run_seconds": before["run_seconds"] + time.perf_counter() - started,
            "peak_memory_bytes": max(before["peak_memory_bytes"], peak_memory()),
        }
        write_json(folder / "manifest.json", manifest)

    return record


def decode_examples(
    config: Config,
    prepared: PreparedRun,
    workers: Workers,
    folder: Path,
    samples: list[dict[str, Any]],
    progress: Progress,
    stop: Stop,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Decode and grade the examples that are not in `samples`, turn by turn, and grade samples without a grade.

    Results are added to `samples` and the run folder. Returns example id → why it failed. Longest prompts come first, to
    minimize padding and to run out of memory early if at all. Raises RunError if no example of the first batch can be
    decoded, and Interrupted when the user stops the run.
    """
    workers.listen(progress.step, progress.notify)
    ungraded = [sample for sample in samples if sample["grade"] is None]
    failures = grade(prepared, ungraded, stop)
    samples[:] = [sample for sample in samples if sample["id"] not in failures]
    if any(sample["grade"] for sample in ungraded):  # left by a run that was stopped in the middle of a batch
        replace_samples(folder, samples)
    stop.check(folder)
    done = {sample["id"] for sample in samples}
    for turn in range(max(prepared.turn.values()) + 1):
        conversations = {s["id"]: (*map(tuple, s["history"]), (s["prompt"], s["completion"])) for s in samples}
        todo = [e for e in prepared.examples if prepared.turn[e.id] == turn and e.id not in done]
        lost = [e for e in todo if e.follows and e.follows not in conversations]
        failures |= {e.id: f"the previous turn, {e.follows}, failed" for e in lost}
        ready = [replace(e, history=conversations[e.follows]) if e.follows else e for e in todo if e.id not in failures]
        for outcome in workers.decode(batches(prepared, ready, batch_size(config, prepared, workers, len(ready)))):
            decoded = bool(outcome.samples)
            outcome = graded(prepared, outcome, stop)
            on_batch()
            if outcome.samples:
                write_trace_part(folder, outcome.traces)
                append_lines(folder / SAMPLES, outcome.samples)
                samples.extend(outcome.samples)
                progress.finished(outcome.samples)
            if outcome.failures:
                if not samples and not decoded:
                    raise RunError(next(iter(outcome.failures.values())))
                failures |= outcome.failures
                progress.failed(outcome.failures)
            write_failures(folder, failures)
            stop.check(folder)
    return failures


def graded(prepared: PreparedRun, outcome: Outcome, stop: Stop) -> Outcome:
    """An outcome with its samples graded; samples whose grader failed become failures."""
    failures = grade(prepared, outcome.samples, stop)
    samples = [sample for sample in outcome.samples if sample["id"] not in failures]
    traces = [trace for trace in outcome.traces if trace["id"] not in failures]
    return Outcome(samples, traces, outcome.failures | failures)


def grade(prepared: PreparedRun, samples: list[dict[str, Any]], stop: Stop) -> dict[str, str]:
    """Grade samples without a grade, until the user stops the run. Returns example id → why its grader failed."""
    examples, failures = {example.id: example for example in prepared.examples}, {}
    try:
        with stop.raising():
            for sample in samples:
                if sample["grade"] is not None:
                    continue
                try:
                    sample["grade"] = grade_completion(prepared.benchmark, examples[sample["id"]], sample)
                except RunError as error:
                    failures[sample["id"]] = str(error)
    except Interrupted:
        pass
    return failures


def batch_size(config: Config, prepared: PreparedRun, workers: Workers, examples: int) -> int:
    """Examples per batch: all for a single worker; for several, few enough to keep all of them busy to the end."""
    side_by_side = max(1, rows_at_once(config, prepared) // config.sampler.search.particles)
    share = max(1, -(-examples // workers.count))
    return share if workers.count == 1 else max(1, min(share, max(side_by_side, share // SHARES)))


def batches(prepared: PreparedRun, examples: list[Example], size: int) -> list[list[Example]]:
    """Batches of at most `size` examples, longest prompts first."""
    longest_first = sorted(examples, key=lambda e: -len(prepared.prompts[e.id]))
    return [longest_first[start : start + size] for start in range(0, len(examples), size)]


def summarize_with_metrics(
    metrics: dict[str, Metric], examples: list[Example], samples: list[dict[str, Any]], config: Config
) -> dict[str, Any]:
    """The summary of samples with the measures of metrics and of the benchmark. Each sample's measures are added to it."""
    by_id = {example.id: example for example in examples}
    examples = [by_id[sample["id"]] for sample in samples]
    each, whole = measure(metrics, examples, samples, config)
    graded, total = config.benchmark.measure(examples, samples)
    for sample, measures, of_benchmark in zip(samples, each, graded, strict=True):
        sample["measures"] |= measures | of_benchmark
    return summarize(samples) | {"measures": whole | total}
