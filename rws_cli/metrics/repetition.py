"""Repetition within completions: repeated n-grams of words (seq-rep-n, arXiv 1908.04319)."""

from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.metrics.text import ngrams
from rws_cli.part import part


@part
class Repetition(Metric):
    measures = {
        "rep_1": {
            "description": "words that occurred in the completion before",
            "unit": "share",
            "formula": "1 − different 1-grams / all 1-grams of the completion",
            "better": "down",
            "source": "arXiv 1908.04319 (seq-rep-n)",
        },
        "rep_2": {
            "description": "2-grams of words that occurred in the completion before",
            "unit": "share",
            "formula": "1 − different 2-grams / all 2-grams of the completion",
            "better": "down",
            "source": "arXiv 1908.04319 (seq-rep-n)",
        },
        "rep_3": {
            "description": "3-grams of words that occurred in the completion before",
            "unit": "share",
            "formula": "1 − different 3-grams / all 3-grams of the completion",
            "better": "down",
            "source": "arXiv 1908.04319 (seq-rep-n)",
        },
        "rep_4": {
            "description": "4-grams of words that occurred in the completion before",
            "unit": "share",
            "formula": "1 − different 4-grams / all 4-grams of the completion",
            "better": "down",
            "source": "arXiv 1908.04319 (seq-rep-n)",
        },
    }

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        return {f"rep_{n}": [repetition(text, n) for text in predictions] for n in (1, 2, 3, 4)}


def repetition(text: str, n: int) -> float | None:
    """The share of a text's n-grams that occurred in it before; None for a text of fewer than n words."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else None
