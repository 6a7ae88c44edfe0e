"""Perplexity of completions, after their prompts, under the model that decoded them.

For a masked diffusion model it is an upper bound: exp of the mean negative bound per token (rws_cli/likelihood). The
model's weights are loaded once more for it.
"""

from copy import copy
from typing import Any

from rws_cli.likelihood.memory import automatic_rows, score
from rws_cli.likelihood.score import Pair, perplexity, together
from rws_cli.metrics.base import Metric
from rws_cli.part import part


@part
class ModelPerplexity(Metric):
    inputs = ("prompts", "histories", "tokens", "questions")
    measures = {
        "completion": {
            "description": "perplexity of a completion, at most, under the model that decoded it",
            "unit": "perplexity",
            "formula": "exp of −log p / n of its n tokens before the first end token; log p as in rws likelihood",
            "better": "down",
        },
        "corpus": {
            "description": "perplexity of all completions together, at most, under the model that decoded them",
            "unit": "perplexity",
            "formula": "exp of −Σ log p / Σ n",
            "better": "down",
            "paired": False,
        },
        "corpus_low": {
            "description": "lower end of the 95 % interval of corpus, given the draws of masks",
            "unit": "perplexity",
            "formula": "exp of −(Σ log p + 1.96 √Σ s²) / Σ n, s the standard errors",
            "paired": False,
        },
        "corpus_high": {
            "description": "upper end of that interval",
            "unit": "perplexity",
            "formula": "exp of −(Σ log p − 1.96 √Σ s²) / Σ n",
            "paired": False,
        },
        "passes": {
            "description": "passes of the model that this metric took, per completion",
            "unit": "passes",
            "formula": "rows of forward passes; not part of mdm_passes",
            "better": "down",
        },
    }

    def load(self, key: str) -> Metric:
        return copy(self)  # which `use` changes

    def use(self, config: Any) -> None:
        self.config = config

    def compute(
        self, prompts: list[str], histories: list[Any], tokens: list[list[int]], questions: list[str]
    ) -> dict[str, Any]:
        config = self.config
        denoiser = config.model.load()
        pairs = [
            Pair(denoiser.encode(prompt, history), denoiser.until_end(ids), question, False)
            for prompt, history, ids, question in zip(prompts, histories, tokens, questions, strict=True)
        ]
        rows = config.runtime.batch_size or automatic_rows(denoiser.vocabulary, pairs)
        scores = score(denoiser, pairs, config.likelihood, config.seed, rows)
        lengths = [len(pair.continuation) for pair in pairs]
        each = [perplexity(s.log_p, n) if n else None for s, n in zip(scores, lengths, strict=True)]
        corpus: list[float | None] = [None, None, None]
        if any(lengths):
            whole = together(scores, lengths)
            corpus = [whole["perplexity"], *whole["perplexity_interval"]]
        passes = [score.cost.mdm_passes for score in scores]
        names = ("corpus", "corpus_low", "corpus_high")
        return {"completion": each, "passes": passes, **dict(zip(names, corpus, strict=True))}
