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
from rws_cli.runs.manifest import Request, open_run, recorded, resumable
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
    """Decode the benchmark, grade it, and write the run folder; returns it.

    An example that fails is left out, and said in failures.jsonl and the manifest. Raises UsageError before any weights
    load if a checkpoint is missing, the resumed run had another configuration or is running; RunError if the run fails,
    and Interrupted if the user stops it, with all finished examples kept and the manifest saying why.
    """
    started = time.perf_counter()
    stopped = resumable(request.resume, config) if request.resume else None
    prepared = prepare(config)
    warning = prepared.benchmark.doubtful_references(prepared.examples)
    with run_lock(request.resume), open_workers(config, prepared) as workers:
        folder, manifest = open_run(config, request, stopped, workers.sources)
        note_spent = spending(folder, manifest, started)
        with (
            run_lock(None if request.resume else folder),
            recorded(folder, manifest),
            stoppable() as stop,
            tracked(config, folder, manifest) as tracking,
        ):
            samples = read_samples(folder)
            place = {example.id: n for n, example in enumerate(prepared.examples)}
            if strange := [sample["id"] for sample in samples if sample["id"] not in place]:
                raise RunError(f"{folder / SAMPLES} has {strange[0]}, which is no example of {config.benchmark.name}.")
            with Progress(len(prepared.examples), samples, folder / "run.log", request.quiet) as progress:
                tracking.follow(samples, progress)
                if warning:
                    progress.say(warning)
                failures = answer(config, prepared, workers, folder, samples, progress, stop, note_spent)
            if not samples:
                raise RunError(f"All examples failed, the first because: {next(iter(failures.values()))}")
            samples.sort(key=lambda sample: place[sample["id"]])
            replace_samples(folder, samples)
            join_trace(folder, list(place))
            metrics = measured(config.metric, prepared.examples, samples) | {"failed": len(failures)}
            if config.metric:
                replace_samples(folder, samples)
            note_spent()
            metrics["cost"] |= manifest["spent"]
            write_json(folder / "metrics.json", metrics)
            tracking.finish(metrics)
            manifest["failed"] = failures
    return folder


SHARES = 4
"""Times that each of several workers takes examples, about."""


def spending(folder: Path, manifest: dict[str, Any], started: float) -> Callable[[], None]:
    """A function that writes into the manifest what the run has taken until now, its earlier sittings included."""
    setup_seconds = time.perf_counter() - started
    before = manifest.get("spent", {"setup_seconds": 0.0, "run_seconds": 0.0, "peak_memory_bytes": 0})

    def note() -> None:
        manifest["spent"] = {
            "setup_seconds": before["setup_seconds"] + setup_seconds,
            "run_seconds": before["run_seconds"] + time.perf_counter() - started,
            "peak_memory_bytes": max(before["peak_memory_bytes"], peak_memory()),
        }
        write_json(folder / "manifest.json", manifest)

    return note


def answer(
    config: Config,
    prepared: PreparedRun,
    workers: Workers,
    folder: Path,
    samples: list[dict[str, Any]],
    progress: Progress,
    stop: Stop,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Decode and grade the examples that are not among `samples`, turn by turn, and grade those among them that are not
    graded yet; `samples` and the run folder grow. Returns why examples failed, by their ids.

    The longest prompts come first: little is padded, and what does not fit into memory shows early. Raises RunError if
    nothing of the first batch can be decoded, and Interrupted when the user stops the run.
    """
    workers.listen(progress.step, progress.say)
    ungraded = [sample for sample in samples if sample["grade"] is None]
    failures = grade(prepared, ungraded, stop)
    samples[:] = [sample for sample in samples if sample["id"] not in failures]
    if any(sample["grade"] for sample in ungraded):  # a run that was stopped in the middle of a batch left them
        replace_samples(folder, samples)
    stop.check(folder)
    done = {sample["id"] for sample in samples}
    for turn in range(max(prepared.turn.values()) + 1):
        said = {s["id"]: (*map(tuple, s["history"]), (s["prompt"], s["completion"])) for s in samples}
        todo = [e for e in prepared.examples if prepared.turn[e.id] == turn and e.id not in done]
        lost = [e for e in todo if e.follows and e.follows not in said]
        failures |= {e.id: f"the turn before it, {e.follows}, failed" for e in lost}
        ready = [replace(e, history=said[e.follows]) if e.follows else e for e in todo if e.id not in failures]
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
    """A batch with its answers graded; those whose grader failed are among its failures."""
    failures = grade(prepared, outcome.samples, stop)
    samples = [sample for sample in outcome.samples if sample["id"] not in failures]
    traces = [trace for trace in outcome.traces if trace["id"] not in failures]
    return Outcome(samples, traces, outcome.failures | failures)


def grade(prepared: PreparedRun, samples: list[dict[str, Any]], stop: Stop) -> dict[str, str]:
    """Fill in the grades that samples lack, until the user stops the run. Returns why graders failed, by example."""
    examples, failures = {example.id: example for example in prepared.examples}, {}
    try:
        with stop.raising():
            for sample in samples:
                if sample["grade"] is not None:
                    continue
                try:
                    sample["grade"] = grade_completion(prepared.benchmark, examples[sample["id"]], sample["completion"])
                except RunError as error:
                    failures[sample["id"]] = str(error)
    except Interrupted:
        pass
    return failures


def batch_size(config: Config, prepared: PreparedRun, workers: Workers, examples: int) -> int:
    """Examples that a worker takes at a time: all, or where there are several as many as keep them busy to the end."""
    side_by_side = max(1, rows_at_once(config, prepared) // config.sampler.search.particles)
    share = max(1, -(-examples // workers.count))
    return share if workers.count == 1 else max(1, min(share, max(side_by_side, share // SHARES)))


def batches(prepared: PreparedRun, examples: list[Example], size: int) -> list[list[Example]]:
    longest_first = sorted(examples, key=lambda e: -len(prepared.prompts[e.id]))
    return [longest_first[start : start + size] for start in range(0, len(examples), size)]


def measured(metrics: dict[str, Metric], examples: list[Example], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of samples, with what metrics find; what they find of each sample goes into it."""
    by_id = {example.id: example for example in examples}
    each, whole = measure(metrics, [by_id[sample["id"]] for sample in samples], samples)
    for sample, measures in zip(samples, each, strict=True):
        sample["measures"] |= measures
    return summarize(samples) | {"measures": whole}
