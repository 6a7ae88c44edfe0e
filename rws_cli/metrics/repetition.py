"""Repetition within completions: repeated n-grams of words (seq-rep-n, arXiv 1908.04319)."""

from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.metrics.text import ngrams
from rws_cli.part import part


@part
class Repetition(Metric):
    measures = {
        "rep_1": "share of a completion's words that occurred in it before",
        "rep_2": "share of a completion's 2-grams that occurred in it before",
        "rep_3": "share of a completion's 3-grams that occurred in it before",
        "rep_4": "share of a completion's 4-grams that occurred in it before",
    }

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        return {f"rep_{n}": [repetition(text, n) for text in predictions] for n in (1, 2, 3, 4)}


def repetition(text: str, n: int) -> float | None:
    """The share of a text's n-grams that occurred in it before; None for a text of fewer than n words."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else None
