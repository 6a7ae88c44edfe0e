"""The length of completions, in words and characters."""

from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.metrics.text import words
from rws_cli.part import part


@part
class Length(Metric):
    measures = {
        "words": {"description": "words of a completion", "unit": "words", "formula": "runs of letters and digits"},
        "characters": {"description": "characters of a completion", "unit": "characters", "formula": "characters"},
    }

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        return {"words": [len(words(text)) for text in predictions], "characters": list(map(len, predictions))}
