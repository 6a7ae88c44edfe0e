"""A local causal language model as judge: compares the probabilities of the letters A and B."""

import math
from collections.abc import Iterator
from typing import Any

from rws_cli.errors import RunError
from rws_cli.judges.base import Judge, Pair, Verdict, prefer, render
from rws_cli.models import chat
from rws_cli.models.checkpoint import Weights
from rws_cli.part import part, setting


@part
class CausalJudge(Weights, Judge):
    """Compares log-probabilities of the next token, so every reply has a verdict and nothing is drawn at random."""

    path: str = setting("a folder, a name on the Hugging Face Hub, or package:NAME")
    file: str | None = setting("a GGUF file in it; null: its safetensors files", None)
    batch_size: int = setting("pairs judged together", 4, min=1)
    margin: float = setting("log-probabilities this close are a tie", 0.0, min=0.0)
    template: str = setting("the judge's prompt, with {question}, {answer_a} and {answer_b}")

    def load(self, benchmark: Any) -> None:
        from rws_cli.models.language_model import load_causal

        self.causal = load_causal("judge", self.path, self.file, self.revision, self.dtype, self.device)

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        tokenizer = self.causal.tokenizer
        letters = [tokenizer(letter, add_special_tokens=False).input_ids[-1] for letter in "AB"]
        limit = getattr(self.causal.model.config, "max_position_embeddings", None)
        for start in range(0, len(pairs), self.batch_size):
            rows = [self._encode(pair) for pair in pairs[start : start + self.batch_size]]
            if limit and max(map(len, rows)) > limit:
                raise RunError(
                    f"A prompt with two completions has {max(map(len, rows))} tokens, which exceeds the judge's context of {limit}: choose "
                    "a judge with a longer context."
                )
            for log_p_LV in self.causal.log_probabilities(rows):
                a, b = log_p_LV[-1, letters].tolist()
                if not math.isfinite(a - b):
                    raise RunError("The judge's log-probabilities are not finite: check judge.path and judge.dtype.")
                yield Verdict(prefer(a - b, self.margin), f"log p(A) − log p(B) = {a - b:.4f}")

    def _encode(self, pair: Pair) -> list[int]:
        prompt, tokenizer = render(self.template, pair), self.causal.tokenizer
        if not tokenizer.chat_template:
            return tokenizer(prompt + "\nBetter answer:").input_ids
        message = [{"role": "user", "content": prompt}]
        text = chat.render(tokenizer, message, "judge", failure=RunError, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
