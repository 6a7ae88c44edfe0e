"""Small checkpoints of Qwen's and Llama's architectures under a diffusion model's names, file by file as the hub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dream_files import byte_letters
from support import random_weights, save_sharded

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
"""Their ids are 256 to 259."""
QWEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def decoder_weights(
    config: dict[str, Any], qkv_bias: bool, qk_norm: bool, head: bool, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random weights under the keys of Qwen2 (biases), Qwen3 (norms) or Llama. head: whether there is one beside the
    embedding; a copy of it where config ties them."""
    d, m, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = width * config["num_attention_heads"], width * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if head:
        shapes["lm_head.weight"] = (v, d)
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}."
        for name, size in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (size, d)
            if qkv_bias:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (size,)
            if qk_norm and name != "v":
                shapes[f"{at}self_attn.{name}_norm.weight"] = (width,)
        shapes |= {
            f"{at}self_attn.o_proj.weight": (d, q), f"{at}mlp.gate_proj.weight": (m, d),
            f"{at}mlp.up_proj.weight": (m, d), f"{at}mlp.down_proj.weight": (d, m),
            f"{at}input_layernorm.weight": (d,), f"{at}post_attention_layernorm.weight": (d,),
        }  # fmt: skip
    weights = random_weights(shapes, seed)
    if head and config["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    return weights


def save_byte_tokenizer(
    folder: Path, special: list[str], template: str | None, special_first: bool = False, **named: Any
) -> None:
    """tokenizer.json and its companions as transformers 4 writes them: tokens are bytes, `special` tokens come after (or
    before) them. named: fields of tokenizer_config.json, such as mask_token."""
    letters = byte_letters()
    ids = {token: n for n, token in enumerate([*special, *letters] if special_first else [*letters, *special])}
    vocabulary = ids if special_first else {token: ids[token] for token in letters}
    added = [
        {"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for token in special
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "add_prefix_space": False, "bos_token": None, "clean_up_tokenization_spaces": False, "errors": "replace",
        "additional_special_tokens": special, "model_max_length": 131072, "unk_token": None,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def save_decoder(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], **generation: Any) -> Path:
    """Shards, config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_sharded(weights, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"transformers_version": "4.57.1"} | generation))
    return folder


# --- A2D (dllm-hub) -------------------------------------------------------------------------------------------------

A2D_QWEN3 = {
    "architectures": ["A2DQwen3LMHeadModel"], "attention_bias": False, "attention_dropout": 0.0, "dtype": "bfloat16",
    "eos_token_id": 258, "head_dim": 16, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
    "intermediate_size": 48, "layer_types": ["full_attention"] * 3, "max_position_embeddings": 40960,
    "max_window_layers": 28, "model_type": "a2d-qwen3", "num_attention_heads": 4, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "pad_token_id": 258, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "tie_word_embeddings": True, "transformers_version": "4.57.1", "use_cache": False,
    "use_sliding_window": False, "vocab_size": 264,
    "auto_map": {"AutoConfig": "modeling_qwen3.A2DQwen3Config", "AutoModelForMaskedLM": "modeling_qwen3.A2DQwen3LMHeadModel"},
}  # fmt: skip
A2D_QWEN2 = {
    "architectures": ["A2DQwen2LMHeadModel"], "attention_dropout": 0.0, "bos_token_id": 256, "dtype": "bfloat16",
    "eos_token_id": 258, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "layer_types": ["full_attention"] * 3, "max_position_embeddings": 32768, "max_window_layers": 24,
    "model_type": "a2d-qwen2", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
    "pad_token_id": 256, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": True, "transformers_version": "4.57.1", "use_cache": False, "use_sliding_window": False,
    "vocab_size": 264,
    "auto_map": {"AutoConfig": "modeling_qwen2.A2DQwen2Config", "AutoModelForMaskedLM": "modeling_qwen2.A2DQwen2LMHeadModel"},
}  # fmt: skip
A2D_LLAMA = {
    "architectures": ["A2DLlamaLMHeadModel"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 256,
    "dtype": "bfloat16", "eos_token_id": 258, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 2048, "mlp_bias": False,
    "model_type": "a2d-llama", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "transformers_version": "4.57.1", "use_cache": False, "vocab_size": 264,
    "auto_map": {"AutoConfig": "modeling_llama.A2DLlamaConfig", "AutoModelForMaskedLM": "modeling_llama.A2DLlamaLMHeadModel"},
}  # fmt: skip
A2D = {"qwen3": A2D_QWEN3, "qwen2": A2D_QWEN2, "llama": A2D_LLAMA}


def a2d_weights(base: str, head: bool = False, seed: int = 0, **fields: Any) -> dict[str, torch.Tensor]:
    config = A2D[base] | fields
    head = head or not config["tie_word_embeddings"]
    return decoder_weights(config, qkv_bias=base == "qwen2", qk_norm=base == "qwen3", head=head, seed=seed)


def save_a2d(
    folder: Path, base: str = "qwen3", head: bool = False, template: str | None = QWEN_TEMPLATE, **fields: Any
) -> Path:
    """A checkpoint of dllm-hub's. head: whether the head is stored although it is tied; fields: of config.json."""
    save_decoder(
        folder, A2D[base] | fields, a2d_weights(base, head, **fields), eos_token_id=[258, 256], pad_token_id=256
    )
    named = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    save_byte_tokenizer(folder, QWEN_SPECIAL, template, **named)
    return folder


# --- iLLaDA (GSAI-ML) -----------------------------------------------------------------------------------------------

ILLADA = {
    "architectures": ["ILLaDAForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 2, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
    "intermediate_size": 48, "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "illada",
    "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 1, "pad_token_id": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.57.1", "use_cache": False, "vocab_size": 264,
    "auto_map": {"AutoConfig": "configuration_illada.ILLaDAConfig", "AutoModelForCausalLM": "modeling_illada.ILLaDAForCausalLM"},
}  # fmt: skip
ILLADA_SPECIAL = ["<|startoftext|>", "<|pad|>", "<|end|>", "<unk>", "<|role|>", "<[MASK]>"]
"""Their ids are 0 to 5."""
ILLADA_TEMPLATE = (
    "{% for m in messages %}{{ '<|role|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|role|>assistant\n' }}{% endif %}"
)


def illada_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    return decoder_weights(ILLADA, qkv_bias=False, qk_norm=False, head=False, seed=seed)


def save_illada(folder: Path, template: str | None = ILLADA_TEMPLATE) -> Path:
    """A checkpoint of iLLaDA's. Its tokenizer does not say which token is the mask."""
    save_decoder(folder, ILLADA, illada_weights(), bos_token_id=0, eos_token_id=2, pad_token_id=1)
    named = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    save_byte_tokenizer(folder, ILLADA_SPECIAL, template, special_first=True, **named)
    return folder
