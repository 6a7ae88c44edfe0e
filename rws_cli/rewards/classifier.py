"""Reward models in AutoModelForSequenceClassification format with one label: Skywork-Reward and its kin, and our own;
and those that only their own Python loads, where the user allows it."""

from __future__ import annotations

import inspect
from itertools import count
from pathlib import Path
from typing import Any

import torch

from rws_cli.config.schema import ClassifierReward
from rws_cli.errors import RunError, UsageError
from rws_cli.models.base import check_loads, check_vocabulary, load_tokenizer, load_weights, quiet
from rws_cli.models.chat import SPOKEN, render, try_out
from rws_cli.models.checkpoint import locate, native_config
from rws_cli.rewards.base import Candidate, Scores, as_statistics, read_statistics
from rws_cli.rewards.prefix import PrefixCache, holds


def prepare_classifier(settings: ClassifierReward, at: str) -> tuple[str, Any, Any, str, dict[str, Any]]:
    """A reward model but its weights: where it is, its class, its tokenizer, its chat template, and the arguments of
    from_pretrained. Raises UsageError for whatever is missing or does not fit."""
    import transformers

    path = locate(settings.path, f"{at}.path")
    named = f"{at}.path={settings.path}"
    with quiet():
        config = native_config(path, settings.revision, f"{at}.path", settings.trust_remote_code, num_labels=1)
        tokenizer = load_tokenizer(transformers.AutoTokenizer, path, settings, at)
    template = settings.template or tokenizer.chat_template
    if not template:
        raise UsageError(f"{named} has no chat template: set {at}.template.")
    if not settings.trust_remote_code:
        check_vocabulary(config, tokenizer, named)
    try_out(tokenizer, at, template)
    render(tokenizer, SPOKEN[:2], at, template)
    return path, getattr(transformers, settings.auto_class), tokenizer, template, {"config": config}


def check_classifier(settings: ClassifierReward, at: str) -> None:
    """Raises UsageError for a reward model that cannot be loaded, without reading its weights."""
    path, auto_class, _, _, arguments = prepare_classifier(settings, at)
    check_loads(auto_class, path, settings, at, **arguments)


class Classifier:
    """Scores a chat of prompt and answer, in the reward model's own chat template, at the last token of the text.

    A causal model reads of a row's text only what follows the first change since the row's last call.
    """

    def __init__(self, settings: ClassifierReward, at: str = "reward") -> None:
        self.settings, self.at = settings, at
        path, auto_class, self.tokenizer, self.template, arguments = prepare_classifier(settings, at)
        self.model, self.device = load_weights(auto_class, path, settings, at, **arguments)
        self.prefixes = PrefixCache(self.model) if self._reads_on() else None
        stored = Path(settings.statistics or Path(path) / "normalization.json")
        self.statistics = (
            as_statistics(read_statistics(stored, f"{at}.statistics"))
            if settings.statistics or stored.is_file()
            else None
        )

    @torch.inference_mode()
    def score(self, candidates: list[Candidate]) -> Scores:
        """Scores in the candidates' order. Raises RunError for a text beyond reward.max_length."""
        texts = [
            render(self.tokenizer, c.example.messages(c.text), self.at, self.template, RunError) for c in candidates
        ]
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids
        lengths = [len(row) for row in ids]
        limit = self.settings.max_length or getattr(self.model.config, "max_position_embeddings", None)
        if limit and max(lengths) > limit:
            raise RunError(
                f"A text of {max(lengths)} tokens is longer than the reward model reads ({limit}, reward.max_length)."
            )
        values: list[float] = []
        tokens: list[int] = []
        for start in range(0, len(ids), self.settings.batch_size):
            part = slice(start, start + self.settings.batch_size)
            pad = self._pad_with(ids[part])
            if self.prefixes:
                score, read = self.prefixes.score([c.slot for c in candidates[part]], ids[part], pad)
            else:
                score, read = self._whole(ids[part], pad), lengths[part]
            values += score.reshape(len(read), -1)[:, 0].float().tolist()
            tokens += read
        return Scores(values, tokens)

    def forget(self) -> None:
        if self.prefixes:
            self.prefixes.ids.clear()

    def _pad_with(self, ids: list[list[int]]) -> int:
        """A token to pad these texts with. The model reads its score at the last token that is not padding, so it must be
        one that no text has: the tokenizer's own padding may be its end token, with which texts end, or be missing."""
        own, used = self.tokenizer.pad_token_id, set().union(*ids)
        pad = own if own is not None and own not in used else next(n for n in count() if n not in used)
        if pad >= len(self.tokenizer):  # the texts have every token there is
            pad = next(n for n in count() if all(n != row[-1] for row in ids))
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = pad
        return pad

    def _whole(self, ids: list[list[int]], pad: int) -> Any:
        """What the model says of texts, read from their beginning."""
        length = max(map(len, ids))
        tokens_BS = torch.tensor([row + [pad] * (length - len(row)) for row in ids], device=self.device)
        is_read_BS = torch.arange(length) < torch.tensor([len(row) for row in ids])[:, None]
        found = self.model(input_ids=tokens_BS, attention_mask=is_read_BS.long().to(self.device))
        return found if self.settings.score_from == "output" else getattr(found, self.settings.score_from)

    @torch.inference_mode()
    def _reads_on(self) -> bool:
        """Whether the model can go on from where a text has changed, tried on a text."""
        s = self.settings
        ours = (
            s.auto_class == "AutoModelForSequenceClassification"
            and s.score_from == "logits"
            and not s.trust_remote_code
        )
        takes_past = "past_key_values" in inspect.signature(self.model.forward).parameters
        if not (ours and takes_past and s.attention != "flash_attention_2"):
            return False
        size = len(self.tokenizer)
        ids = [n % size for n in range(3, 67, 4)]
        return size > 8 and holds(self.model, ids, self._pad_with([ids]))
