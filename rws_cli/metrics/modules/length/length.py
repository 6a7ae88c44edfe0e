"""How long answers are, in words and characters."""

import datasets
import evaluate

from rws_cli.metrics.text import words


class Length(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str]) -> dict:
        return {"words": [len(words(text)) for text in predictions], "characters": list(map(len, predictions))}
