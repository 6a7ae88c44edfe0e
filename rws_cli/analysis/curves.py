"""Accuracy and reward against cost: a sweep as curves, one per sampler and task, with one point per setting.

Cost is the number of tokens that go through model and reward, per example. A pass through either counts alike, and
longer text costs more. Seconds depend on the machine, and passes leave out the reward.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rws_cli import registry
from rws_cli.analysis.compare import by_settings, column, differing_settings, paired
from rws_cli.analysis.measures import MEASURES
from rws_cli.analysis.run import Run
from rws_cli.analysis.statistics import Interval, bootstrap_interval, grouped, mean_interval
from rws_cli.config.catalog import choices
from rws_cli.errors import UsageError, choose_from

if TYPE_CHECKING:
    import numpy as np

COST = ("tokens", "mdm_passes", "reward_calls", "seconds")
VALUES = ("accuracy", "reward")
"""Measures of cost, and the measures that are plotted against cost."""
FAMILIES = ("orders", "as many as are sure", "masking again", "lookahead", "search")
"""Families of samplers; a schedule can declare another one as its `family`."""


@dataclass(frozen=True)
class Point:
    """A setting of a sampler.

    by_question: each question's value, by measure. difference: in accuracy to the best that the reference reaches for
    at most this cost, with its 95 % interval; None if the reference has no setting that cheap.
    """

    settings: str
    cost: dict[str, float]
    by_question: dict[str, np.ndarray]
    difference: float | None = None
    difference_interval: Interval | None = None

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


def curves_of(runs: list[Run], against: str) -> list[Curve]:
    """The curves of some runs, by task, each compared with the curve labeled `against`, which must exist unless it
    is the default."""
    curves: list[Curve] = []
    for task, members in grouped([run.task for run in runs], runs).items():
        of_task = _curves_of(task, members)
        labels = [curve.label for curve in of_task]
        if against not in labels and against != "best_of_n":
            raise UsageError(f"--against {against} is none of the samplers here: {choose_from(against, labels)}")
        reference = next((curve for curve in of_task if curve.label == against), None)
        curves += [_against(curve, reference) for curve in of_task] if reference else of_task
    return curves


def _curves_of(task: str, runs: list[Run]) -> list[Curve]:
    ids = paired(runs)
    settings, curves = by_settings(runs), []
    for label, groups in grouped([members[0].name for members in settings], settings).items():
        firsts = [members[0] for members in groups]
        points = [_point(members, ids, differing_settings(members[0], firsts)) for members in groups]
        points.sort(key=lambda point: point.cost["tokens"])
        sampler = firsts[0].config["sampler"]
        curves.append(Curve(task, label, family(sampler), _paper(sampler["name"]), points))
    return curves


def family(sampler: dict[str, Any]) -> str:
    """The family of a sampler, from its settings."""
    if sampler["search"]["kind"] != "none":
        return "search"
    schedule = registry.available("schedule").get(sampler["schedule"]["kind"])  # a part of before may be gone
    declared = schedule.facts if schedule else {}
    if declared.get("family"):
        return declared["family"]
    if declared.get("remasks") or sampler["remasking"]["kind"] != "none":
        return "masking again"
    if declared.get("adaptive"):
        return "as many as are sure"
    return "orders"


def families(curves: list[Curve]) -> list[str]:
    """The families of some curves, in plotting order."""
    found = {curve.family for curve in curves}
    first, *others = FAMILIES
    return [name for name in (first, *sorted(found - {*FAMILIES}), *others) if name in found]


def _paper(sampler: str) -> str:
    found = re.search(r"\(([^()]*\d{4}\.\d{5})\)", choices("sampler").get(sampler, ""))
    return found.group(1) if found else ""


def _point(members: list[Run], ids: list[str], settings: dict[str, Any]) -> Point:
    columns = {name: column(members, ids, MEASURES[name]) for name in (*VALUES, *COST)}
    defined = {name: values for name, values in columns.items() if values is not None}
    return Point(
        ", ".join(f"{key.removeprefix('sampler.')}={value}" for key, value in settings.items()),
        {name: float(defined[name].mean()) for name in COST if name in defined},
        {name: defined[name] for name in VALUES if name in defined},
    )


def _against(curve: Curve, reference: Curve) -> Curve:
    points = []
    for point in curve.points:
        theirs = None if curve is reference else at_cost(reference, point.cost["tokens"], "accuracy")
        if theirs is None or "accuracy" not in point.by_question:
            points.append(point)
            continue
        gained = point.by_question["accuracy"] - theirs
        points.append(replace(point, difference=float(gained.mean()), difference_interval=bootstrap_interval(gained)))
    return replace(curve, points=points)


def frontier(points: list[Point], measure: str) -> list[Point]:
    """The points that are better than all cheaper ones. points: cheapest first."""
    best: list[Point] = []
    for point in points:
        if measure in point.value and (not best or point.value[measure] > best[-1].value[measure]):
            best.append(point)
    return best


def at_cost(curve: Curve, tokens: float, measure: str) -> np.ndarray | None:
    """Each question's value for at most this cost, interpolated between two points of the frontier on a logarithmic
    scale of cost; None below the cheapest point."""
    best = frontier(curve.points, measure)
    if not best or tokens < best[0].cost["tokens"]:
        return None
    for a, b in pairwise(best):
        low, high = a.cost["tokens"], b.cost["tokens"]
        if tokens < high:
            share = math.log(tokens / low) / math.log(high / low)
            return (1 - share) * a.by_question[measure] + share * b.by_question[measure]
    return best[-1].by_question[measure]
