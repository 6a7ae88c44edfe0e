"""How much answers repeat themselves: the share of n-grams of words that occurred before, for n of 1 to 4."""

import datasets
import evaluate

from rws_cli.metrics.text import NGRAMS, repetition


class Repetition(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Welleck et al., Neural Text Generation with Unlikelihood Training, arXiv 1908.04319",
            inputs_description="",
            features=features,
        )

    def _compute(self, predictions: list[str]) -> dict:
        return {f"rep_{n}": [repetition(text, n) for text in predictions] for n in NGRAMS}
