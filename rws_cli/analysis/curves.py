"""Accuracy and reward against cost: a sweep as curves, one per sampler and task, with one point per setting.

Cost is one of COSTS, per example; at first the number of tokens that go through model and reward: a pass through either
counts alike, and longer text costs more. Passes and canvases leave out the reward, and seconds depend on the machine.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.compare import by_settings, column, differing_settings, paired
from rws_cli.analysis.measures import MEASURES
from rws_cli.analysis.run import Run
from rws_cli.analysis.statistics import Interval, bootstrap_interval, grouped, mean_interval
from rws_cli.config.catalog import choices
from rws_cli.config.families import FAMILIES, family
from rws_cli.errors import UsageError, choose_from, display_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

COSTS = ("tokens", "mdm_passes", "mdm_rows", "seconds")
"""What can be the axis of cost."""
RECORDED = (*COSTS, "reward_calls")
VALUES = ("accuracy", "reward")
"""The measures that are plotted against cost."""
REFERENCES = ("confidence", "dus", "left_to_right")
"""Samplers that all others are compared with at equal cost, where they are among them."""


@dataclass(frozen=True)
class Difference:
    """In accuracy, as a share, with its 95 % interval."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Point:
    """A setting of a sampler.

    cost: the mean of each of RECORDED. axis: the one of COSTS that is compared. by_question: each question's value, by
    measure. differences: to the best that each reference reaches for at most this cost; without those that have no
    setting that cheap.
    """

    settings: str
    cost: dict[str, float]
    axis: str
    by_question: dict[str, np.ndarray]
    differences: dict[str, Difference] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        return self.cost[self.axis]

    @cached_property
    def value(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.by_question.items()}

    @cached_property
    def interval(self) -> dict[str, Interval | None]:
        return {name: mean_interval(values) for name, values in self.by_question.items()}


@dataclass(frozen=True)
class Curve:
    """A sampler's points on one task, cheapest first."""

    task: str
    label: str
    family: str
    paper: str
    points: list[Point]


def curves_of(runs: list[Run], against: Sequence[str] = (), axis: str = "tokens") -> list[Curve]:
    """The curves of some runs, by task, each compared with those labeled `against`; none: those of REFERENCES that exist.

    axis: one of COSTS. Raises UsageError if a label does not exist, or runs have not recorded this cost.
    """
    if axis not in COSTS:
        raise UsageError(f"--cost {axis} is not known: {choose_from(axis, COSTS)}")
    curves: list[Curve] = []
    for task, members in grouped([run.task for run in runs], runs).items():
        by_label = {curve.label: curve for curve in _curves_of(task, members, axis)}
        for label in against:
            if label not in by_label:
                raise UsageError(f"--against {label} is none of the samplers here: {choose_from(label, by_label)}")
        references = {label: by_label[label] for label in against or REFERENCES if label in by_label}
        curves += [_against(curve, references) for curve in by_label.values()]
    return curves


def _curves_of(task: str, runs: list[Run], axis: str) -> list[Curve]:
    ids = paired(runs)
    settings, curves = by_settings(runs), []
    for label, groups in grouped([members[0].name for members in settings], settings).items():
        firsts = [members[0] for members in groups]
        points = [_point(members, ids, differing_settings(members[0], firsts), axis) for members in groups]
        points.sort(key=lambda point: point.spent)
        sampler = firsts[0].config["sampler"]
        curves.append(Curve(task, label, family(sampler), _paper(sampler["name"]), points))
    return curves


def families(curves: list[Curve]) -> list[str]:
    """The families of some curves, in plotting order."""
    return [name for name in FAMILIES if any(curve.family == name for curve in curves)]


def _paper(sampler: str) -> str:
    found = re.search(r"\(([^()]*\d{4}\.\d{5})\)", choices("sampler").get(sampler, ""))
    return found.group(1) if found else ""


def _point(members: list[Run], ids: list[str], settings: dict[str, Any], axis: str) -> Point:
    columns = {name: column(members, ids, MEASURES[name]) for name in (*VALUES, *RECORDED)}
    defined = {name: values for name, values in columns.items() if values is not None}
    if axis not in defined:
        raise UsageError(
            f"{display_path(members[0].folder)} has not recorded {axis} of every example: choose another --cost."
        )
    return Point(
        ", ".join(f"{key.removeprefix('sampler.')}={value}" for key, value in settings.items()),
        {name: float(defined[name].mean()) for name in RECORDED if name in defined},
        axis,
        {name: defined[name] for name in VALUES if name in defined},
    )


def _against(curve: Curve, references: dict[str, Curve]) -> Curve:
    points = []
    for point in curve.points:
        differences = {}
        for label, reference in references.items():
            theirs = None if curve is reference else at_cost(reference, point.spent, "accuracy")
            if theirs is not None and "accuracy" in point.by_question:
                gained = point.by_question["accuracy"] - theirs
                differences[label] = Difference(float(gained.mean()), bootstrap_interval(gained))
        points.append(replace(point, differences=differences))
    return replace(curve, points=points)


def frontier(points: list[Point], measure: str) -> list[Point]:
    """The points that are better than all cheaper ones. points: cheapest first."""
    best: list[Point] = []
    for point in points:
        if measure in point.value and (not best or point.value[measure] > best[-1].value[measure]):
            best.append(point)
    return best


def at_cost(curve: Curve, cost: float, measure: str) -> np.ndarray | None:
    """Each question's value for at most this cost, interpolated between two points of the frontier on a logarithmic
    scale of cost; None below the cheapest point."""
    best = frontier(curve.points, measure)
    if not best or cost < best[0].spent:
        return None
    for a, b in pairwise(best):
        if cost < b.spent:
            share = math.log(cost / a.spent) / math.log(b.spent / a.spent)
            return (1 - share) * a.by_question[measure] + share * b.by_question[measure]
    return best[-1].by_question[measure]
