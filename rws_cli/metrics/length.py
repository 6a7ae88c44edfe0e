"""The length of completions, in words and characters."""

from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.metrics.text import words
from rws_cli.part import part


@part
class Length(Metric):
    measures = {"words": "words (runs of letters and digits) per completion", "characters": "characters per completion"}

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        return {"words": [len(words(text)) for text in predictions], "characters": list(map(len, predictions))}
