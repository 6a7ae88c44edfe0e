"""Open-dCoder's file format (a plain Qwen2, decoded with full attention and shifted logits)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from decoder_files import A2D_QWEN2, QWEN_SPECIAL, QWEN_TEMPLATE, decoder_weights, save_byte_tokenizer, save_decoder
from reference import dream_logits
from support import make_settings

from rws_cli.errors import UsageError

CONFIG = {key: value for key, value in A2D_QWEN2.items() if key != "auto_map"} | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
}


def save(folder: Path, **tokenizer: str) -> Path:
    weights = decoder_weights(CONFIG, qkv_bias=True, qk_norm=False, head=False)
    save_decoder(folder, CONFIG, weights, eos_token_id=[258, 256])
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    save_byte_tokenizer(folder, [*QWEN_SPECIAL[:3], "[MASK]"], QWEN_TEMPLATE, **named, **tokenizer)
    return folder


def test_shifted_logits_equal_an_independent_forward_pass_padded_or_not(tmp_path: Path) -> None:
    denoiser = make_settings("open_dcoder", save(tmp_path, mask_token="[MASK]")).load()
    assert (denoiser.mask_id, denoiser.eos_ids) == (259, (258, 256))
    short, long = torch.arange(40, 47), torch.arange(90, 101)
    tokens, attention = torch.full((2, 11), 256), torch.ones(2, 11, dtype=torch.bool)
    tokens[0, 4:], tokens[1] = short, long
    attention[0, :4] = False
    wanted = attention.clone()
    wanted[0, 4] = wanted[1, 0] = False  # nothing is before them
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
    weights = decoder_weights(CONFIG, qkv_bias=True, qk_norm=False, head=False)
    expected = torch.cat([dream_logits(ids, weights, CONFIG)[1:] for ids in (short, long)])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_without_a_mask_and_auto_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    with pytest.raises(UsageError, match="names no mask token"):
        make_settings("open_dcoder", folder).prepare()
    with pytest.raises(UsageError, match="but of causal language model: set model.kind=causal"):
        make_settings("dream", folder).prepare()
