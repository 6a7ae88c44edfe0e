"""The base class of metrics: the texts that a metric needs, and what it measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rws_cli.part import Part


@dataclass
class Metric(Part):
    """Measures of a run's completions.

    inputs: the arguments of `compute`, each a list with one entry per completion: some of predictions (the completions),
    references, prompts, questions (ids), keywords (lists of words), histories (the turns before the prompt), tokens (ids of
    the completion) and choices (the records of the choices in samples.jsonl). measures: keys that it
    returns → a description, or a dict of description, unit ("share" is shown in percent), formula, better ("up" or "down"),
    source, label, and paired=False if there is one value for all completions (see analysis/measure.py). They are read from
    the source: write literals.
    """

    role: ClassVar[str] = "metric"
    inputs: ClassVar[Any] = ("predictions",)
    measures: ClassVar[dict[str, Any]] = {}

    def load(self, key: str) -> Metric:
        """The metric ready to compute: itself or a copy. key: the key of its settings. Raises UsageError for whatever can be
        checked before decoding."""
        return self

    def use(self, config: Any) -> None:
        """Receives the run's configuration before `compute` is called."""

    def compute(self, *args: Any, **texts: Any) -> dict[str, Any]:
        """Measure → a list with a value per completion, or one value for all; None where it is undefined."""
        raise NotImplementedError
