"""The base class of trackers, and what a run tells one."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from rws_cli.errors import UsageError, without_secrets
from rws_cli.part import Part


@dataclass(frozen=True)
class TrackedRun:
    """A run that begins. id: of the tracked run to go on with, where it is resumed."""

    name: str
    folder: Path
    output: Path
    benchmark: str
    config: dict[str, Any]
    id: str | None


class Tracker(Part):
    """A library that a run is also logged with. Where to is what the library's own environment variables say; without them
    it stays on this machine. Anything may be raised: the run warns, and goes on without the tracker.

    package: what must be installed. environment: variables that are set while the tracker is open, unless the user set
    them. id: what finds the run in the library again, None where its folder does. note: where it went, if the user should
    know.
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
        if self.package and (spec is None or spec.origin is None):  # a folder of that name is no package
            raise UsageError(
                f"runtime.tracker={self.kind} needs the package {self.package}: pip install 'rws[{self.package}]'."
            )

    def open(self, run: TrackedRun) -> None:
        """Begin, or go on with, a run of the library's."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """How the run stands after `step` examples, by names such as running/accuracy."""

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        """What the run came to, by names such as metrics/cost/seconds."""
        self.log(step, metrics)

    def close(self, status: str) -> None:
        """The end: finished, failed or interrupted. Nothing of the library goes on running."""


def leaves(node: Any, at: str = "") -> dict[str, Any]:
    """The values of nested dictionaries and lists, by their path with slashes."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {key: leaf for name, value in items for key, leaf in leaves(value, f"{at}/{name}").items()}
    return {at.removeprefix("/"): node}


def sentence(error: Exception) -> str:
    """What went wrong, on one line, without secrets."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0].rstrip(".") if text else type(error).__name__)
