"""The share of required keywords in a completion."""

import re
from collections.abc import Sequence
from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.part import part


@part
class KeywordCoverage(Metric):
    inputs = ("predictions", "keywords")
    measures = {
        "share": {
            "description": "keywords that occur in a completion",
            "unit": "share",
            "formula": "keywords that occur as whole words, in any case / keywords",
            "better": "up",
        }
    }

    def compute(self, predictions: list[str], keywords: list[list[str]]) -> dict[str, Any]:
        return {"share": [coverage(text, words) for text, words in zip(predictions, keywords, strict=True)]}


def coverage(text: str, keywords: Sequence[str]) -> float | None:
    """The share of keywords that occur as whole words, in any case; None without keywords."""
    hits = [bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in keywords]
    return sum(hits) / len(hits) if hits else None
