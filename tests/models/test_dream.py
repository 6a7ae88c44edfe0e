"""Dream's file format (Qwen2's names, its own tokenizer class, shifted logits) against an independent forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference import dream_logits
from support import make_settings, random_weights, save_sharded

from rws_cli.errors import UsageError
from rws_cli.models import load_model

CONFIG = {
    "architectures": ["DreamModel"], "attention_dropout": 0.0, "bos_token_id": 256, "eos_token_id": 256,
    "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "mask_token_id": 259, "max_position_embeddings": 128, "max_window_layers": 3, "model_type": "Dream",
    "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "pad_token_id": 256,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 264,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ADDED = {256: "<|endoftext|>", 257: "<|im_start|>", 258: "<|im_end|>", 259: "<|mask|>"}


def byte_letters() -> list[str]:
    """GPT-2's 256 printable stand-ins for bytes, in the order of a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(len(rest))]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    d, m, v = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    kv = d // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,), "lm_head.weight": (v, d)}
    for n in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{n}."
        for name, size in (("q", d), ("k", kv), ("v", kv)):
            shapes |= {f"{at}self_attn.{name}_proj.weight": (size, d), f"{at}self_attn.{name}_proj.bias": (size,)}
        shapes |= {
            f"{at}self_attn.o_proj.weight": (d, d), f"{at}mlp.gate_proj.weight": (m, d),
            f"{at}mlp.up_proj.weight": (m, d), f"{at}mlp.down_proj.weight": (d, m),
            f"{at}input_layernorm.weight": (d,), f"{at}post_attention_layernorm.weight": (d,),
        }  # fmt: skip
    return random_weights(shapes, seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dream")
    save_sharded(weights(), folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 256, "eos_token_id": 256}))
    (folder / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(byte_letters())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = {
        "added_tokens_decoder": {
            str(n): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for n, token in ADDED.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "chat_template": TEMPLATE, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>",
        "tokenizer_class": "DreamTokenizer", "unk_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_shifted_logits_equal_an_independent_forward_pass(folder: Path) -> None:
    denoiser = load_model(make_settings("dream", folder))
    tokens = torch.randint(0, 260, (2, 15), generator=torch.Generator().manual_seed(2))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        logits = denoiser.logits(tokens, everywhere, everywhere).view(2, 15, -1)
    for row in range(2):
        torch.testing.assert_close(logits[row], dream_logits(tokens[row], weights(), CONFIG), atol=1e-4, rtol=1e-4)


def test_left_padding_of_mixed_prompts_changes_nothing(folder: Path) -> None:
    denoiser = load_model(make_settings("dream", folder))
    short, long = torch.arange(40, 47), torch.arange(90, 101)
    tokens = torch.full((2, 11), 256)
    tokens[0, 4:], tokens[1] = short, long
    attention = torch.ones(2, 11, dtype=torch.bool)
    attention[0, :4] = False
    wanted = torch.zeros_like(attention)
    wanted[:, 7:] = True
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
    expected = torch.cat([dream_logits(short, weights(), CONFIG)[3:], dream_logits(long, weights(), CONFIG)[7:]])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_tokenizer_loads_without_remote_code(folder: Path) -> None:
    denoiser = load_model(make_settings("dream", folder))
    assert denoiser.mask_id == 259
    assert denoiser.eos_ids == (256, 258)
    ids = denoiser.encode("Hi there")
    assert denoiser.tokenizer.decode(ids) == "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    assert denoiser.text([*denoiser.tokenizer("a b").input_ids, 258, 65]) == "a b"


def test_sliding_windows_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"use_sliding_window": True}))
    with pytest.raises(UsageError, match="sliding window"):
        load_model(make_settings("dream", tmp_path))
