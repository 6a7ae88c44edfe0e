"""A local causal language model as judge: compares the probabilities of the letters A and B."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError
from rws_cli.judges.base import Judge, Pair, Reply, Verdict, prefer, render
from rws_cli.models import chat
from rws_cli.models.checkpoint import Weights, fingerprint
from rws_cli.part import part, setting


@part
class CausalJudge(Weights, Judge):
    """Compares log-probabilities of the next token, so every reply has a verdict and nothing is drawn at random. Answers in
    words are greedy, too."""

    path: str = setting("a folder, a name on the Hugging Face Hub, or package:NAME")
    file: str | None = setting("a GGUF file in it; null: its safetensors files", None)
    batch_size: int = setting("pairs judged together, or prompts answered together", 4, min=1)
    margin: float = setting("log-probabilities this close are a tie", 0.0, min=0.0)
    template: str = setting("the judge's prompt, with {question}, {answer_a} and {answer_b}")
    max_tokens: int = setting("most tokens of an answer in words", 512, min=1)

    answers = True

    def load(self, benchmark: Any) -> None:
        from rws_cli.models.language_model import folder_of, load_causal

        self.causal = load_causal(self.key, self.path, self.file, self.revision, self.dtype, self.device)
        folder = folder_of(self.key, self.path, self.file)
        weighed = Path(folder).is_dir() or not self.file
        self.source = {self.key: fingerprint(folder, self.revision)} if weighed else {}  # type: ignore[misc]

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        tokenizer = self.causal.tokenizer
        letters = [tokenizer(letter, add_special_tokens=False).input_ids[-1] for letter in "AB"]
        for start in range(0, len(pairs), self.batch_size):
            prompts = [render(self.template, pair) for pair in pairs[start : start + self.batch_size]]
            rows = self._encoded(prompts, "\nBetter answer:", "A prompt with two completions", 0)
            for log_p_LV in self.causal.log_probabilities(rows):
                a, b = log_p_LV[-1, letters].tolist()
                if not math.isfinite(a - b):
                    raise RunError(
                        f"The judge's log-probabilities are not finite: check {self.key}.path and {self.key}.dtype."
                    )
                yield Verdict(prefer(a - b, self.margin), f"log p(A) − log p(B) = {a - b:.4f}")

    def reply(self, prompts: list[str]) -> list[Reply]:
        replies = []
        for start in range(0, len(prompts), self.batch_size):
            rows = self._encoded(prompts[start : start + self.batch_size], "\n", "A prompt", self.max_tokens)
            for row, written in zip(rows, self.causal.continuations(rows, self.max_tokens), strict=True):
                text = self.causal.tokenizer.decode(written, skip_special_tokens=True)
                replies.append(Reply(text, len(row) + len(written)))
        return replies

    def _encoded(self, prompts: list[str], ending: str, named: str, more: int) -> list[list[int]]:
        """Token ids of prompts, in the chat template or else with an ending. Raises RunError, naming them, if one is longer than
        the context with `more` tokens after it."""
        rows = [self._encode(prompt, ending) for prompt in prompts]
        limit = getattr(self.causal.model.config, "max_position_embeddings", None)
        if limit and (longest := max(map(len, rows))) + more > limit:
            reply = f" and its reply up to {more} more" if more else ""
            raise RunError(
                f"{named} has {longest} tokens{reply}, which exceeds the judge's context of {limit}: choose a judge with a longer context."
            )
        return rows

    def _encode(self, prompt: str, ending: str) -> list[int]:
        tokenizer = self.causal.tokenizer
        if not tokenizer.chat_template:
            return tokenizer(prompt + ending).input_ids
        message = [{"role": "user", "content": prompt}]
        text = chat.render(tokenizer, message, self.key, failure=RunError, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
