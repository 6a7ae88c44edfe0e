"""Perplexity of answers under a causal language model: exp of the mean negative log-likelihood of a token.

Each answer stands alone, after the model's begin-of-text token where its tokenizer has one. An answer without a token
to predict has none.
"""

from copy import copy
from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.models.checkpoint import Weights
from rws_cli.part import part, setting


@part
class Perplexity(Weights, Metric):
    at = "metric.perplexity"
    measures = {
        "completion": {
            "description": "perplexity of a completion under a causal language model",
            "unit": "perplexity",
            "formula": "exp of the mean −log p of its tokens",
            "better": "down",
        },
        "corpus": {
            "description": "perplexity of all completions together",
            "unit": "perplexity",
            "formula": "exp of the mean −log p of all their tokens",
            "better": "down",
            "paired": False,
        },
    }

    path: str = setting("a folder, a name on the hub, or package:NAME", "???")
    file: str | None = setting("a GGUF file in it; null: safetensors", None)
    batch_size: int = setting("answers scored together", 8, min=1)

    def load(self, at: str) -> Metric:
        from rws_cli.models.causal import find

        find(at, self.path, self.file)
        loaded = copy(self)
        loaded.at = at
        return loaded

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        from rws_cli.models.causal import load_causal, perplexities

        causal = load_causal(self.at, self.path, self.file, self.revision, self.dtype, self.device)
        each, corpus = perplexities(causal, predictions, self.batch_size)
        return {"completion": each, "corpus": corpus}
