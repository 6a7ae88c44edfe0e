"""The share of given words that an answer holds."""

import datasets
import evaluate

from rws_cli.metrics.text import coverage


class KeywordCoverage(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "keywords": datasets.Sequence(text)})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str], keywords: list[list[str]]) -> dict:
        return {"share": [coverage(text, given) for text, given in zip(predictions, keywords, strict=True)]}
