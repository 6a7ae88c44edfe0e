"""Log a run with the library of runtime.tracker as well.

A tracker is optional: if it fails, the run prints one warning and continues without it. The library's output and
telemetry are turned off unless the user's environment turns them on.
"""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

from rws_cli import registry
from rws_cli.analysis.measures import MEASURES, run_values
from rws_cli.analysis.statistics import mean
from rws_cli.config.identity import resolved
from rws_cli.config.schema import Config
from rws_cli.files import write_json
from rws_cli.runs.progress import Progress
from rws_cli.trackers.base import TrackedRun, Tracker, error_line

T = TypeVar("T")


class Tracking:
    """A run's tracker, if it has one. Errors of the library are caught here."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self.tracker, self.is_open = tracker, False
        self.progress: Progress | None = None
        self.pending_lines: list[str] = []
        self.samples: list[dict[str, Any]] = []

    def follow(self, samples: list[dict[str, Any]], progress: Progress) -> None:
        """From now on, log whenever examples finish. samples: the list that they are added to."""
        self.samples, self.progress = samples, progress
        progress.on_finished = lambda: self.attempt(
            lambda tracker: tracker.log(len(samples), running_means(samples, progress.tokens_per_second))
        )
        for line in self.pending_lines:
            progress.notify(line)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Log each measure of the run that is defined: metrics/accuracy."""
        flat = {f"metrics/{name}": value for name, value in run_values(metrics).items() if value is not None}
        self.attempt(lambda tracker: tracker.finish(len(self.samples), flat))

    def notify(self, line: str) -> None:
        """Print a line for the user, once progress is shown."""
        if self.progress:
            self.progress.notify(line)
        else:
            self.pending_lines.append(line)

    def attempt(self, action: Callable[[Tracker], T]) -> T | None:
        """Do something with the tracker, without output. If it fails, warn and stop using the tracker."""
        tracker = self.tracker
        if tracker is None:
            return None
        try:
            with quiet():
                return action(tracker)
        except Exception as error:
            self.tracker = None
            self.notify(f"{tracker.kind} stopped logging this run: {error_line(error)}; the run continues without it")
            if self.is_open:
                with suppress(Exception), quiet():
                    tracker.close("failed")
            return None


@contextmanager
def tracked(config: Config, folder: Path, manifest: dict[str, Any]) -> Iterator[Tracking]:
    """Open the run's tracker for the block, and close it however that ends. The manifest records its name and id."""
    name = config.runtime.tracker
    if name == "none":
        yield Tracking()
        return
    before = manifest.get("tracker") or {}
    run = TrackedRun(
        name="/".join(dict.fromkeys([f"{config.model.name}-{config.sampler.name}", *folder.resolve().parts[-2:]])),
        folder=folder,
        output=Path(config.output),
        benchmark=config.benchmark.name,
        config=resolved(config),
        id=before.get("id") if before.get("name") == name else None,
    )
    tracker: Tracker = registry.make("tracker", name, "runtime.tracker")
    tracking, status = Tracking(tracker), "failed"
    with environment(tracker.environment):
        try:
            tracking.attempt(lambda tracker: tracker.open(run))
            if tracking.tracker:
                tracking.is_open = True
                if tracker.note:
                    tracking.notify(tracker.note)
                manifest["tracker"] = {"name": name, "id": tracker.id}
                write_json(folder / "manifest.json", manifest)  # now, in case the run is killed
            yield tracking
            status = "failed" if manifest["failed"] else "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            tracking.is_open = False
            tracking.attempt(lambda tracker: tracker.close(status))


@contextmanager
def environment(defaults: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the block, except those that are set already."""
    added = [variable for variable in defaults if variable not in os.environ]
    os.environ.update({variable: defaults[variable] for variable in added})
    try:
        yield
    finally:
        for variable in added:
            os.environ.pop(variable, None)


def running_means(samples: list[dict[str, Any]], speed: float) -> dict[str, float]:
    """Means over the examples so far that have the measure. speed: tokens per second."""
    means = {f"running/{name}": mean(map(MEASURES[name].of_sample, samples)) for name in ("accuracy", "reward", "god")}
    defined = {name: value for name, value in means.items() if value is not None}
    return {"running/examples": float(len(samples)), **defined, "running/tokens_per_second": speed}


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress a library's warnings, log lines and output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
