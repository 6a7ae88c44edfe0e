"""The definition of a measure: its name and meaning, and its place in the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

METRICS, COST, STATISTICS = "METHODS.md, Metrics", "METHODS.md, Cost", "METHODS.md, Statistics"
"""Sources."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    unit: a "share" is shown in percent. better: whether higher ("up") or lower ("down") is better; None: neither. paired:
    whether runs are compared by it per example, with an interval of the difference.
    sample, metrics, trace: its place in a line of samples.jsonl, in metrics.json (a mean over examples, or a value of the
    whole run) and in trace.parquet; "" if it has none. A place is a dotted key, or a sum or quotient of several, such as
    "cost.mdm_tokens + cost.reward_tokens". label: the name in tables, if another one.
    """

    name: str
    unit: str
    description: str
    formula: str = ""
    better: Literal["up", "down"] | None = None
    paired: bool = False
    sample: str = ""
    metrics: str = ""
    trace: str = ""
    label: str = ""
    source: str = METRICS

    @property
    def percent(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == "share"

    @property
    def display_name(self) -> str:
        """The name in tables."""
        return self.label or self.name

    @property
    def heading(self) -> str:
        """A column heading, with the percent sign that its numbers lack."""
        return f"{self.display_name}, %" if self.percent else self.display_name

    @property
    def with_unit(self) -> str:
        """The name with its unit, for tables whose shares have a percent sign."""
        in_name = self.percent or not self.unit or self.unit in self.display_name
        return self.display_name if in_name else f"{self.display_name} ({self.unit})"

    def of_sample(self, sample: Mapping[str, Any]) -> float | None:
        """Its value for one example; None where it is not defined."""
        return value_at(sample, self.sample) if self.sample else None

    def of_run(self, metrics: Mapping[str, Any]) -> float | None:
        """Its value for a run, from metrics.json; None where it is not defined."""
        return value_at(metrics, self.metrics) if self.metrics else None


def value_at(record: Mapping[str, Any], where: str) -> float | None:
    """The value at a place in nested records; None if a key is missing."""
    terms, below = _parsed(where)
    if len(terms) == 1 and not below:
        return _at(record, terms[0])
    values = [_at(record, path) for path in terms]
    divisor = _at(record, below) if below else 1
    if None in values or not divisor:
        return None
    return sum(values) / divisor if below else sum(values)


@lru_cache
def _parsed(where: str) -> tuple[list[str], str]:
    """The keys whose values are added, and the key of the divisor."""
    above, _, below = where.partition(" / ")
    return above.split(" + "), below


def _at(node: Any, path: str) -> Any:
    """The value at a dotted key. Keys may contain dots themselves, as those of `measures` do."""
    while isinstance(node, dict) and path:
        if path in node:
            return node[path]
        head, _, path = path.partition(".")
        node = node.get(head)
    return None
