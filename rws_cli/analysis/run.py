"""A run as it was recorded, and what is measured of each of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.analysis.trajectory import Trajectory, trajectory_of

if TYPE_CHECKING:
    import pyarrow as pa

Sample = dict[str, Any]
Measure = Callable[[Sample], float | None]


@dataclass(frozen=True)
class Run:
    """A run as far as it is done. grader: the version of the rule that its grades come from; samples: by example; metrics:
    None until it has ended; judged: judge.json of each judge that was asked about it, with its `verdicts`; trace: a row a
    sample, if it was read."""

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
        """The label that it was given, or its sampler's name."""
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


MEASURES: dict[str, Measure] = {
    "accuracy": lambda s: float(s["grade"]["correct"]) if s["grade"] else None,
    "partial": lambda s: s["grade"]["partial"] if s["grade"] else None,
    "reward": lambda s: s["reward"],
    "god": lambda s: s["order"][DEFAULT_GOD],
    "mdm_passes": lambda s: float(s["cost"]["mdm_passes"]),
    "reward_calls": lambda s: float(s["cost"]["reward_calls"]),
    "tokens": lambda s: float(s["cost"]["mdm_tokens"] + s["cost"]["reward_tokens"]),
    "seconds": lambda s: s["cost"]["seconds"],
}


def measures_of(runs: list[Run]) -> dict[str, Measure]:
    """MEASURES, and the metrics that each sample of each run has an entry for."""
    samples = [sample["measures"] for run in runs for sample in run.samples.values()]
    names = [name for name in samples[0] if all(name in measures for measures in samples)]
    return MEASURES | {name: lambda sample, name=name: sample["measures"][name] for name in names}
