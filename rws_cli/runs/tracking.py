"""A run that is also logged with the library of runtime.tracker.

A tracker is a convenience: whatever goes wrong with it costs the run one line of warning, and nothing else. What a
library prints, and what it sends home about itself, is turned off unless the user's environment turns it on.
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
from rws_cli.trackers.base import TrackedRun, Tracker, sentence

T = TypeVar("T")


class Tracking:
    """What a run does with its tracker, if it has one. No error of a library's comes out of here."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self.tracker, self.is_open = tracker, False
        self.progress: Progress | None = None
        self.unsaid: list[str] = []
        self.samples: list[dict[str, Any]] = []

    def follow(self, samples: list[dict[str, Any]], progress: Progress) -> None:
        """Log from here on whenever examples have finished; `samples` is the list that grows."""
        self.samples, self.progress = samples, progress
        progress.on_finished = lambda: self.attempt(
            lambda tracker: tracker.log(len(samples), so_far(samples, progress.tokens_per_second))
        )
        for line in self.unsaid:
            progress.say(line)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Log each measure of the run that is defined: metrics/accuracy."""
        flat = {f"metrics/{name}": value for name, value in run_values(metrics).items() if value is not None}
        self.attempt(lambda tracker: tracker.finish(len(self.samples), flat))

    def say(self, line: str) -> None:
        if self.progress:
            self.progress.say(line)
        else:
            self.unsaid.append(line)

    def attempt(self, action: Callable[[Tracker], T]) -> T | None:
        """Do something with the tracker, quietly. If it fails, say so and do without it from here on."""
        tracker = self.tracker
        if tracker is None:
            return None
        try:
            with quiet():
                return action(tracker)
        except Exception as error:
            self.tracker = None
            self.say(f"{tracker.kind} does not log this run any further: {sentence(error)}; the run goes on")
            if self.is_open:
                with suppress(Exception), quiet():
                    tracker.close("failed")
            return None


@contextmanager
def tracked(config: Config, folder: Path, manifest: dict[str, Any]) -> Iterator[Tracking]:
    """The run's tracker for as long as the run lasts, closed however it ends. The manifest says what finds it again."""
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
                    tracking.say(tracker.note)
                manifest["tracker"] = {"name": name, "id": tracker.id}
                write_json(folder / "manifest.json", manifest)  # now, for a run that is killed
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
    """Variables that are set inside, unless they are set already."""
    added = [variable for variable in defaults if variable not in os.environ]
    os.environ.update({variable: defaults[variable] for variable in added})
    try:
        yield
    finally:
        for variable in added:
            os.environ.pop(variable, None)


def so_far(samples: list[dict[str, Any]], speed: float) -> dict[str, float]:
    """How a run stands: means over the examples that have the measure. speed: tokens a second."""
    means = {f"running/{name}": mean(map(MEASURES[name].of_sample, samples)) for name in ("accuracy", "reward", "god")}
    defined = {name: value for name, value in means.items() if value is not None}
    return {"running/examples": float(len(samples)), **defined, "running/tokens_per_second": speed}


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or output of a library's."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
