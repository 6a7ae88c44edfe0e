"""Perplexity of completions under a causal language model: exp of the mean negative log-likelihood per token.

Each completion is scored without its prompt, after the begin-of-text token if the tokenizer has one. A completion without
a token to predict has no perplexity.
"""

from copy import copy
from typing import Any

from rws_cli.metrics.base import Metric
from rws_cli.models.checkpoint import Weights
from rws_cli.part import part, setting


@part
class Perplexity(Weights, Metric):
    key = "metric.perplexity"
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

    path: str = setting("a folder, a name on the Hugging Face Hub, or package:NAME", "???")
    file: str | None = setting("a GGUF file in it; null: its safetensors files", None)
    batch_size: int = setting("completions scored together", 8, min=1)

    def load(self, key: str) -> Metric:
        from rws_cli.models.language_model import folder_of

        folder_of(key, self.path, self.file)
        loaded = copy(self)
        loaded.key = key
        return loaded

    def compute(self, predictions: list[str]) -> dict[str, Any]:
        from rws_cli.models.language_model import load_causal, perplexities

        causal = load_causal(self.key, self.path, self.file, self.revision, self.dtype, self.device)
        each, corpus = perplexities(causal, predictions, self.batch_size)
        return {"completion": each, "corpus": corpus}
