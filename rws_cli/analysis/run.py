"""A run as it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.trajectory import Trajectory, trajectory_of

if TYPE_CHECKING:
    import pyarrow as pa

Sample = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run, as far as it is finished.

    grader: the version of the grader. samples: by example id. metrics: None until the run has finished. judged:
    judge.json of each judge of this run, with its `verdicts`. trace: one row per sample, if it was read.
    """

    folder: Path
    manifest: dict[str, Any]
    grader: int
    samples: dict[str, Sample]
    metrics: dict[str, Any] | None = None
    judged: list[dict[str, Any]] = field(default_factory=list)
    trace: pa.Table | None = None

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def name(self) -> str:
        """The run's label, or the name of its sampler."""
        return self.config.get("label") or self.config["sampler"]["name"]

    @property
    def task(self) -> str:
        return f"{self.config['benchmark']['name']}, {self.config['model']['name']}"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {example: n for n, example in enumerate(self.samples)}

    def rows(self, examples: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of the trace of some examples."""
        assert self.trace
        return self.trace.take([self._places[example] for example in examples]).to_pylist()

    def trajectories(self, examples: Sequence[str]) -> list[Trajectory]:
        return [trajectory_of(row, self.samples[row["id"]]) for row in self.rows(examples)]
