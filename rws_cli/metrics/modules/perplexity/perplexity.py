"""Perplexity of answers under a causal language model: exp of the mean negative log-likelihood of a token.

Each answer stands alone, after the model's begin-of-text token where its tokenizer has one. `answer` is each answer's
own, `corpus` that of all their tokens together. An answer without a token to predict has none.
"""

import datasets
import evaluate

from rws_cli.models.causal import find, load_causal, perplexities


class Perplexity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def check(self, path: str, file: str | None = None, **_) -> None:
        """What can be found wrong before anything is decoded."""
        find("metric.perplexity.arguments", path, file)

    def _compute(self, predictions: list[str], batch_size: int = 8, **checkpoint) -> dict:
        each, corpus = perplexities(load_causal("metric.perplexity.arguments", **checkpoint), predictions, batch_size)
        return {"answer": each, "corpus": corpus}
