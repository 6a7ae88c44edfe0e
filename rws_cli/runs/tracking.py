"""A run logged elsewhere as well: by Weights & Biases, MLflow or TensorBoard, through their own clients.

Where it goes is what each library's own environment variables say; without them it stays on this machine, but for
Weights & Biases where the user is logged in. A tracker is a convenience: whatever goes wrong with it costs the run one
line of warning, and nothing else. What a library prints and sends home about itself is turned off unless the user's
environment turns it on.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.config.identity import resolved
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError, without_secrets
from rws_cli.runs.folder import alone, write_json
from rws_cli.runs.progress import Progress

T = TypeVar("T")

MOST_PARAMETERS = 100
"""Parameters that MLflow takes at a time."""


@dataclass(frozen=True)
class Run:
    """What a tracker is told at the start. id: of the tracked run to go on with, where it is a resumed one."""

    name: str
    folder: Path
    output: Path
    benchmark: str
    config: dict[str, Any]
    id: str | None


class Tracker(Protocol):
    """A run in a library. id: what finds it again, None where the folder does. note: what the user should know of where
    it went."""

    id: str | None
    note: str | None

    def log(self, step: int, values: dict[str, float]) -> None:
        """How it stands after so many examples."""

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        """What it came to."""

    def close(self, status: str) -> None:
        """The end: finished, failed or interrupted. Nothing of the library goes on running."""


class Wandb:
    """Files in the run's folder, sent to the server if the user is logged in. Without a key or a network they stay, for
    `wandb sync`, unless WANDB_MODE says that they must be sent."""

    environment: ClassVar[dict[str, str]] = {
        "WANDB_PROJECT": "rws",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_FINISH_TIMEOUT": "60",
    }

    def __init__(self, run: Run) -> None:
        self.hooks = sys.exit, sys.excepthook  # which its service replaces for good
        import wandb

        self.note, self.alone = None, wandb.run is None
        options: dict[str, Any] = {
            "config": run.config,
            "settings": wandb.Settings(
                reinit="create_new",  # a notebook that calls rws may have a run of its own
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        }
        for variable, option, value in (
            ("WANDB_NAME", "name", run.name),
            ("WANDB_DIR", "dir", str(run.folder)),
            ("WANDB_RUN_ID", "id", run.id),
            ("WANDB_RESUME", "resume", "allow"),
        ):
            if variable not in os.environ:
                options[option] = value
        try:
            try:
                self.run = wandb.init(**options)
            except wandb.Error as error:
                if "WANDB_MODE" in os.environ:
                    raise
                self.run = wandb.init(**options, mode="offline")
                self.note = f"wandb: {sentence(error)}; logged in {run.folder / 'wandb'}, for wandb sync to send"
        except BaseException:
            self.stop()
            raise
        self.id = self.run.id

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        self.run.summary.update(metrics)

    def close(self, status: str) -> None:
        try:
            self.run.finish(exit_code=0 if status == "finished" else 1)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the library's service, unless it has another run in this process."""
        import wandb

        if self.alone:
            wandb.teardown()
            sys.exit, sys.excepthook = self.hooks


class Mlflow:
    """A run of the experiment that is called like the benchmark; without MLFLOW_TRACKING_URI in a data base under the
    output folder."""

    environment: ClassVar[dict[str, str]] = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient

        self.note = None
        store = None
        if "MLFLOW_TRACKING_URI" not in os.environ:
            store = run.output.resolve() / "mlflow"
            store.mkdir(parents=True, exist_ok=True)
        with alone(store / ".lock" if store else None):  # for two runs would make the tables of a new data base at once
            self.client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}" if store else None)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.benchmark)
            if found := self.client.get_experiment_by_name(name):
                experiment = found.experiment_id
            else:
                experiment = self.client.create_experiment(
                    name, artifact_location=(store / "artifacts").as_uri() if store else None
                )
        self.id = self.begun(run.id) or self.begin(run, experiment)

    def begun(self, known: str | None) -> str | None:
        """A known run, running again; None if there is none here."""
        from mlflow.exceptions import MlflowException

        if known:
            try:
                self.client.update_run(known, status="RUNNING")
                return known
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return None

    def begin(self, run: Run, experiment: str) -> str:
        from mlflow.entities import Param

        id_ = self.client.create_run(experiment, run_name=run.name).info.run_id
        parameters = [Param(mlflow_name(key), str(value)) for key, value in leaves(run.config).items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(id_, params=parameters[start : start + MOST_PARAMETERS])
        return id_

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(mlflow_name(key), value, now, step) for key, value in values.items()])

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        self.log(step, metrics)

    def close(self, status: str) -> None:
        ends = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self.client.set_terminated(self.id, ends[status])


class TensorBoard:
    """Event files in the run's folder."""

    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, run: Run) -> None:
        import yaml
        from torch.utils.tensorboard import SummaryWriter

        self.id, self.note = None, None
        self.writer = SummaryWriter(str(run.folder / "tensorboard"))
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))  # Markdown's code

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        self.log(step, metrics)

    def close(self, status: str) -> None:
        self.writer.close()


TRACKERS: dict[str, Any] = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}


def check_tracker(name: str) -> None:
    """Raises UsageError if the library of a tracker is not installed."""
    from importlib.util import find_spec

    if name != "none" and ((spec := find_spec(name)) is None or spec.origin is None):  # a folder wandb/ is no library
        raise UsageError(f"runtime.tracker={name} needs the package {name}: pip install 'rws[{name}]'.")


class Tracking:
    """What a run does with its tracker, if it has one. No error of a library's comes out of here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tracker: Tracker | None = None
        self.progress: Progress | None = None
        self.unsaid: list[str] = []
        self.samples: list[dict[str, Any]] = []

    def open(self, run: Run) -> None:
        self.tracker = self.attempt(lambda: TRACKERS[self.name](run))
        if self.tracker and self.tracker.note:
            self.say(self.tracker.note)

    def follow(self, samples: list[dict[str, Any]], progress: Progress) -> None:
        """Log from here on whenever examples have finished; `samples` is the list that grows."""
        self.samples, self.progress = samples, progress
        progress.on_finished = self.log
        for line in self.unsaid:
            progress.say(line)

    def log(self) -> None:
        if (tracker := self.tracker) and (progress := self.progress):
            self.attempt(lambda: tracker.log(len(self.samples), so_far(self.samples, progress)))

    def finish(self, metrics: dict[str, Any]) -> None:
        """Log metrics.json, flat: metrics/cost/seconds."""
        if tracker := self.tracker:
            flat = {f"metrics/{key}": value for key, value in numbers(metrics).items()}
            self.attempt(lambda: tracker.finish(len(self.samples), flat))

    def say(self, line: str) -> None:
        if self.progress:
            self.progress.say(line)
        else:
            self.unsaid.append(line)

    def close(self, status: str) -> None:
        if tracker := self.tracker:
            self.tracker = None
            self.attempt(lambda: tracker.close(status))

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Do something with the library, quietly. If it fails, say so and do without the tracker from here on."""
        try:
            with quiet():
                return action()
        except Exception as error:
            self.say(f"{self.name} does not log this run any further: {sentence(error)}; the run goes on")
            if tracker := self.tracker:
                self.tracker = None
                with suppress(Exception), quiet():
                    tracker.close("failed")
            return None


@contextmanager
def tracked(config: Config, folder: Path, manifest: dict[str, Any]) -> Iterator[Tracking]:
    """The run's tracker, if it is to have one, for as long as it lasts; closed however it ends. The manifest says what
    finds it again."""
    name = config.runtime.tracker
    tracking, status = Tracking(name), "failed"
    if name == "none":
        yield tracking
        return
    before = manifest.get("tracker") or {}
    label = f"{config.model.name}-{config.sampler.name}"
    run = Run(
        name="/".join(dict.fromkeys([label, *folder.resolve().parts[-2:]])),
        folder=folder,
        output=Path(config.output),
        benchmark=config.benchmark.name,
        config=resolved(config),
        id=before.get("id") if before.get("name") == name else None,
    )
    defaults = TRACKERS[name].environment
    added = [variable for variable in defaults if variable not in os.environ]
    os.environ.update({variable: defaults[variable] for variable in added})
    try:
        tracking.open(run)
        if tracking.tracker:
            manifest["tracker"] = {"name": name, "id": tracking.tracker.id}
            write_json(folder / "manifest.json", manifest)  # now, for a run that is killed
        yield tracking
        status = "failed" if manifest["failed"] else "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        tracking.close(status)
        for variable in added:
            os.environ.pop(variable, None)


def so_far(samples: list[dict[str, Any]], progress: Progress) -> dict[str, float]:
    """How a run stands: means over the examples that have the measure."""
    measures = {
        "accuracy": [float(sample["mark"]["correct"]) for sample in samples if sample["mark"]],
        "reward": [sample["reward"] for sample in samples if sample["reward"] is not None],
        "god": [value for sample in samples if (value := sample["order"][DEFAULT_GOD]) is not None],
    }
    means = {f"running/{name}": sum(values) / len(values) for name, values in measures.items() if values}
    speed = progress.tokens_per_second
    return {"running/examples": float(len(samples)), **means, "running/tokens_per_second": speed}


def leaves(node: Any, at: str = "") -> dict[str, Any]:
    """The values of nested dictionaries and lists, by their path with slashes."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {key: leaf for name, value in items for key, leaf in leaves(value, f"{at}/{name}").items()}
    return {at.removeprefix("/"): node}


def numbers(node: Any) -> dict[str, float]:
    """Those leaves that are numbers."""
    return {key: float(value) for key, value in leaves(node).items() if isinstance(value, int | float)}


def mlflow_name(key: str) -> str:
    """MLflow's names have letters, digits and _ - . : / and spaces."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)


def sentence(error: Exception) -> str:
    """What went wrong, on one line, without what is nobody's business."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0].rstrip(".") if text else type(error).__name__)


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
