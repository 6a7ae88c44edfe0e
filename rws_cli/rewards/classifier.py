"""A reward model: any AutoModelForSequenceClassification with one label, or a checkpoint with its own Python"""

import inspect
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError, UsageError
from rws_cli.models.chat import SPOKEN, render, try_out
from rws_cli.models.checkpoint import Checkpoint, locate, native_config
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores, statistics_at


@part
class Classifier(Checkpoint, Reward):
    """Scores the chat of prompt and completion, in the reward model's own chat template, at the last token of the text.

    A causal model reads only the part of a text after the first change since the last call for the same row.
    """

    auto_class: str = setting(
        "the class of transformers that loads it",
        "AutoModelForSequenceClassification",
        choices=("AutoModelForSequenceClassification", "AutoModel"),
    )
    needs_remote_code: bool = setting("whether only the checkpoint's own Python can load it", False)
    score_from: str = setting(
        "where the score is in the model's output: field logits or score, or the output itself",
        "logits",
        choices=("logits", "score", "output"),
    )
    template: str | None = setting("a chat template (Jinja) in place of the tokenizer's; null: the tokenizer's", None)
    batch_size: int = setting("texts scored together", 64, min=1)
    statistics: str | None = setting(
        "a JSON file with the score's mean, std, min and max; null: normalization.json of the checkpoint", None
    )
    max_length: int | None = setting(
        "longest text, in tokens; a longer one is an error; null: the model's own limit", None, min=1
    )

    stateless = True

    @property
    def gradients(self) -> bool:
        return not self.needs_remote_code

    def mistakes(self, key: str) -> Iterator[str]:
        if self.needs_remote_code and not self.trust_remote_code:
            yield (
                f"{key}={self.name} needs the Python that comes with {self.path}, which runs only with your consent: set "
                f"trust_remote_code=true and pins.{self.name}=<the full 40-digit commit hash that you trust>."
            )
        yield from super().mistakes(key)

    def check(self, key: str) -> None:
        from rws_cli.models.loading import check_loads

        path, auto_class, _, arguments = self._prepared(key)
        check_loads(auto_class, path, self, key, **arguments)

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        from rws_cli.models.loading import load_weights
        from rws_cli.rewards.reading import PrefixCache

        self.key = key
        path, auto_class, self.tokenizer, arguments = self._prepared(key)
        self.model, _ = load_weights(auto_class, path, self, key, **arguments)
        self.prefixes = PrefixCache(self.model) if self._reads_on() else None
        stored = self.statistics or str(Path(path) / "normalization.json")
        if self.statistics or Path(stored).is_file():
            self.normalization = statistics_at(stored, f"{key}.statistics")

    def _prepared(self, key: str) -> tuple[str, Any, Any, dict[str, Any]]:
        """Everything but the weights: their path and class, the tokenizer, and the arguments of from_pretrained. Raises
        UsageError for what is missing or does not fit."""
        import transformers

        from rws_cli.models.loading import check_vocabulary, load_tokenizer, quiet

        path, named = locate(self.path, f"{key}.path"), f"{key}.path={self.path}"
        with quiet():
            config = native_config(path, self.revision, f"{key}.path", self.trust_remote_code, num_labels=1)
            tokenizer = load_tokenizer(transformers.AutoTokenizer, path, self, key)
        if not (self.template or tokenizer.chat_template):
            raise UsageError(f"{named} has no chat template: set {key}.template.")
        if not self.trust_remote_code:
            check_vocabulary(config, tokenizer, named)
        try_out(tokenizer, key, self.template)
        render(tokenizer, SPOKEN[:2], key, self.template)
        return path, getattr(transformers, self.auto_class), tokenizer, {"config": config}

    def score(self, candidates: list[Candidate]) -> Scores:
        """Scores in the candidates' order. Raises RunError for a text beyond reward.max_length."""
        texts = [
            render(self.tokenizer, c.example.messages(c.text), self.key, self.template, RunError) for c in candidates
        ]
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids
        limit = self.max_length or getattr(self.model.config, "max_position_embeddings", None)
        if limit and (longest := max(map(len, ids))) > limit:
            raise RunError(
                f"A text of {longest} tokens exceeds the reward model's limit of {limit} (reward.max_length)."
            )
        values: list[float] = []
        tokens: list[int] = []
        for start in range(0, len(ids), self.batch_size):
            batch = slice(start, start + self.batch_size)
            found, read = self._read([c.slot for c in candidates[batch]], ids[batch])
            values += found.reshape(len(read), -1)[:, 0].float().tolist()
            tokens += read
        return Scores(values, tokens)

    def forget(self, slots: Sequence[int] | None = None) -> None:
        if self.prefixes:
            self.prefixes.forget(slots)

    def _read(self, slots: list[int | None], ids: list[list[int]]) -> tuple[Any, list[int]]:
        """Scores (B, 1) or (B,) of texts as token ids, and the number of tokens that the model read for each."""
        import torch

        from rws_cli.rewards.reading import read_whole

        pad = self._pad_with(ids)
        with torch.inference_mode():
            if self.prefixes:
                return self.prefixes.score(slots, ids, pad)
            found = read_whole(self.model, ids, pad)
            return found if self.score_from == "output" else getattr(found, self.score_from), [len(row) for row in ids]

    def _pad_with(self, ids: list[list[int]]) -> int:
        """A padding token for these texts. The model reads its score at the last token that is not padding, so it must not
        occur in them: the tokenizer's own may be its end token, with which texts end, or be missing."""
        default, used = self.tokenizer.pad_token_id, set().union(*ids)
        pad = default if default is not None and default not in used else next(n for n in count() if n not in used)
        if pad >= len(self.tokenizer):  # the texts contain every token
            pad = next(n for n in count() if all(n != row[-1] for row in ids))
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = pad
        return pad

    def _reads_on(self) -> bool:
        """Whether the model can continue from the first change of a text, tried on an example."""
        from rws_cli.rewards.reading import holds

        ours = (
            self.auto_class == "AutoModelForSequenceClassification"
            and self.score_from == "logits"
            and not self.trust_remote_code
        )
        takes_past = "past_key_values" in inspect.signature(self.model.forward).parameters
        if not (ours and takes_past and self.attention != "flash_attention_2"):
            return False
        size = len(self.tokenizer)
        ids = [n % size for n in range(3, 67, 4)]
        return size > 8 and holds(self.model, ids, self._pad_with([ids]))
