"""What a metric is: the texts that it reads, and what it measures of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rws_cli.part import Part


@dataclass
class Metric(Part):
    """A measure of a run's answers.

    inputs: what `compute` is given, each a list with an entry for each answer: of predictions (the answers), references,
    prompts, questions (ids) and keywords (lists of words). measures: what it returns → what that is, in words; or by name
    description, unit ("share" is shown in percent), formula, better ("up" or "down"), source, label, and paired=False
    where there is one value for all (see analysis/measure.py). It is read off the source: write literals.
    """

    role: ClassVar[str] = "metric"
    inputs: ClassVar[Any] = ("predictions",)
    measures: ClassVar[dict[str, Any]] = {}

    def load(self, at: str) -> Metric:
        """Itself, or a copy with what it needs. Raises UsageError, naming the key `at` that it is set at, for what can be
        found wrong before anything is decoded."""
        return self

    def compute(self, *args: Any, **texts: Any) -> dict[str, Any]:
        """By measure a list with a value for each answer, or one value for all; None where it is not defined."""
        raise NotImplementedError
