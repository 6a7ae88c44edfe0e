"""Overlap of a completion with its reference"""

from rws_cli.metrics.base import Metric
from rws_cli.part import part, setting


@part
class Overlap(Metric):
    size: int = setting("characters compared at a time", 1, min=1)

    inputs = ("predictions", "references")
    measures = {"share": "share of a completion's runs of characters that occur in its reference"}

    def compute(self, predictions: list[str], references: list[str]) -> dict:
        """None for a completion that is too short."""
        shares = []
        for text, reference in zip(predictions, references, strict=True):
            runs = [text[n : n + self.size] for n in range(len(text) - self.size + 1)]
            shares.append(sum(run in reference for run in runs) / len(runs) if runs else None)
        return {"share": shares}
