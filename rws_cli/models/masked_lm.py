"""Any AutoModelForMaskedLM (BERT, RoBERTa, ModernBERT, …) as a denoiser."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from rws_cli.config import Model
from rws_cli.models.base import (
    Denoiser,
    Forward,
    check_bidirectional,
    find_tokens,
    load_tokenizer,
    load_weights,
    position_ids,
)
from rws_cli.models.checkpoint import locate, read_config


def load(settings: Model) -> Denoiser:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    path = locate(settings.path, "model.path")
    config = read_config(path, settings.revision, "model.path")
    tokenizer = load_tokenizer(AutoTokenizer, path, settings, "model")
    mask_id, eos_ids, pad_id = find_tokens(settings, config, tokenizer)
    model, device = load_weights(AutoModelForMaskedLM, path, settings, "model")
    denoiser = Denoiser(model, tokenizer, _forward(model), mask_id, eos_ids, pad_id, settings.chat_template, device)
    check_bidirectional(denoiser)
    return denoiser


def _forward(model: Any) -> Forward:
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    # RoBERTa and its kin number positions from the padding id upward.
    first = next((m.padding_idx + 1 for m in model.modules() if hasattr(m, "create_position_ids_from_input_ids")), 0)

    def forward(tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor) -> Tensor:
        positions = {"position_ids": position_ids(attention_BL) + first} if takes_positions else {}
        return model(input_ids=tokens_BL, attention_mask=attention_BL.long(), **positions).logits[wanted_BL]

    return forward
