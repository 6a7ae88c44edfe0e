"""The base class of trackers, and the description of a run that they receive."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from rws_cli.errors import UsageError, without_secrets
from rws_cli.part import Part


@dataclass(frozen=True)
class TrackedRun:
    """A run to log. id: the tracker's id of the run, if it is resumed."""

    name: str
    folder: Path
    output: Path
    benchmark: str
    config: dict[str, Any]
    id: str | None


class Tracker(Part):
    """A library that also logs a run. Its own environment variables say where to; without them, logs stay on this machine.
    Methods may raise anything: the run then warns and continues without the tracker.

    package: the package that it needs. environment: variables set while the tracker is open, unless the user set them.
    id: the run's id in the library; None if the run's folder identifies it. note: a line for the user, e.g. where the
    logs are.
    """

    role = "tracker"
    package = ""
    environment: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        self.id: str | None = None
        self.note: str | None = None

    def check(self) -> None:
        """Raises UsageError if the package is not installed."""
        spec = find_spec(self.package) if self.package else None
        if self.package and (spec is None or spec.origin is None):  # origin None: a plain folder of that name
            raise UsageError(
                f"runtime.tracker={self.kind} needs the package {self.package}: pip install 'rws[{self.package}]'."
            )

    def open(self, run: TrackedRun) -> None:
        """Create the library's run, or reopen it if the run is resumed."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log values after `step` examples, under names such as running/accuracy."""

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        """Log final metrics, under names such as metrics/cost/seconds."""
        self.log(step, metrics)

    def close(self, status: str) -> None:
        """End the library's run and everything that it started. status: finished, failed or interrupted."""


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """The values in nested dictionaries and lists, by path, with slashes."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {key: leaf for name, value in items for key, leaf in leaves(value, f"{path}/{name}").items()}
    return {path.removeprefix("/"): node}


def error_line(error: Exception) -> str:
    """An error's message on one line, without secrets."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0].rstrip(".") if text else type(error).__name__)
