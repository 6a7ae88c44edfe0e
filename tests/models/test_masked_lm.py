"""Any AutoModelForMaskedLM as a denoiser: the same logits as the model alone, padded or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import make_settings, word_tokenizer
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rws_cli.errors import UsageError

SIZE = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WORDS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(25))]
FAMILIES = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZE, pad_token_id=1)),
    "roberta": lambda: RobertaForMaskedLM(
        RobertaConfig(**SIZE, pad_token_id=1, eos_token_id=3, max_position_embeddings=64)
    ),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(**SIZE, pad_token_id=1, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)
    ),
}


def save(folder: Path, family: str, **special: str) -> Path:
    torch.manual_seed(5)
    FAMILIES[family]().save_pretrained(folder)
    word_tokenizer(WORDS, pad_token="[PAD]", sep_token="[SEP]", cls_token="[CLS]", **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own_whatever_the_padding(tmp_path: Path, family: str) -> None:
    folder = save(tmp_path, family, mask_token="[MASK]")
    denoiser = make_settings("masked_lm", folder, chat_template=False).load()
    assert denoiser.mask_id == 4
    assert denoiser.eos_ids == (3,)
    short, long = [2, 7, 8, 4, 4], [2, 9, 10, 11, 12, 13, 4, 4]
    tokens = torch.tensor([[1, 1, 1, *short], long])
    attention = torch.tensor([[False] * 3 + [True] * 5, [True] * 8])
    wanted = tokens == 4
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
        alone = AutoModelForMaskedLM.from_pretrained(folder).eval()
        expected = torch.cat([alone(torch.tensor([row])).logits[0, -2:] for row in (short, long)])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, "bert")
    with pytest.raises(UsageError, match="model.mask_token_id"):
        make_settings("masked_lm", folder, chat_template=False).load()
