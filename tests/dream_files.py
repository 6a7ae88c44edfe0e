"""A small Dream checkpoint with random weights, file by file as the hub's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from support import random_weights, save_sharded

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


def save_dream(folder: Path) -> Path:
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
