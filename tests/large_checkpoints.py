"""Checkpoints of about a gigabyte with random weights, and the resident memory of a process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from decoder_files import QWEN_SPECIAL, save_byte_tokenizer
from safetensors.torch import save_file

QWEN3 = {
    "architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3", "attention_bias": False, "eos_token_id": 258,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 512,
    "num_attention_heads": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "use_sliding_window": False, "vocab_size": 100_000,
}  # fmt: skip
LLADA2 = {
    "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "eos_token_id": 1, "first_k_dense_replace": 1,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 512,
    "moe_intermediate_size": 512, "n_group": 4, "num_attention_heads": 16, "num_experts": 16, "num_experts_per_tok": 2,
    "num_key_value_heads": 4, "num_shared_experts": 1, "pad_token_id": 1, "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06, "rope_theta": 600000, "routed_scaling_factor": 2.5, "score_function": "sigmoid",
    "tie_word_embeddings": False, "topk_group": 2, "use_sliding_window": False, "vocab_size": 50_000,
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def mlp(name: str, width: int) -> Shapes:
    return {f"{name}.{side}_proj.weight": (width, 1024) for side in ("gate", "up")} | {
        f"{name}.down_proj.weight": (1024, width)
    }


def save_qwen3(folder: Path, layers: int, dtype: torch.dtype, tied: bool = False, **fields: Any) -> None:
    """fields: of config.json."""
    shapes: Shapes = {"model.embed_tokens.weight": (100_000, 1024), "model.norm.weight": (1024,)}
    if not tied:
        shapes["lm_head.weight"] = (100_000, 1024)
    for n in range(layers):
        layer = {
            f"self_attn.{name}_proj.weight": (size, 1024) for name, size in (("q", 2048), ("k", 1024), ("v", 1024))
        }
        layer |= {f"self_attn.{name}_norm.weight": (128,) for name in "qk"} | {"self_attn.o_proj.weight": (1024, 2048)}
        layer |= {"input_layernorm.weight": (1024,), "post_attention_layernorm.weight": (1024,)} | mlp("mlp", 3072)
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    save_byte_tokenizer(folder, QWEN_SPECIAL, None, eos_token="<|im_end|>", mask_token="<|mask|>")
    save(folder, QWEN3 | {"num_hidden_layers": layers, "tie_word_embeddings": tied} | fields, shapes, dtype)


def save_llada2(folder: Path, layers: int, dtype: torch.dtype, dense: int) -> None:
    """dense: the number of layers without experts."""
    shapes: Shapes = {"model.word_embeddings.weight": (50_000, 1024), "model.norm.weight": (1024,)}
    shapes["lm_head.weight"] = (50_000, 1024)
    for n in range(layers):
        layer: Shapes = {
            "attention.query_key_value.weight": ((16 + 4 + 4) * 128, 1024), "attention.dense.weight": (1024, 2048),
            "attention.query_layernorm.weight": (128,), "attention.key_layernorm.weight": (128,),
            "input_layernorm.weight": (1024,), "post_attention_layernorm.weight": (1024,),
        }  # fmt: skip
        if n < dense:
            layer |= mlp("mlp", 3072)
        else:
            layer |= {"mlp.gate.weight": (16, 1024), "mlp.gate.expert_bias": (16,)} | mlp("mlp.shared_experts", 512)
            for expert in range(16):
                layer |= mlp(f"mlp.experts.{expert}", 512)
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    save_byte_tokenizer(folder, QWEN_SPECIAL, None, eos_token="<|im_end|>", mask_token="<|mask|>")
    save(folder, LLADA2 | {"num_hidden_layers": layers, "first_k_dense_replace": dense}, shapes, dtype)


def save(folder: Path, config: dict[str, Any], shapes: Shapes, dtype: torch.dtype) -> None:
    """Two shards and config.json. Weights of one size are the same numbers."""
    numbers = torch.randn(max(map(math.prod, shapes.values())), generator=torch.Generator().manual_seed(0)) * 0.02
    numbers, names, index = numbers.to(dtype), sorted(shapes), {}
    for shard in range(2):
        file = f"model-{shard + 1:05d}-of-00002.safetensors"
        part = {name: numbers[: math.prod(shapes[name])].view(shapes[name]).clone() for name in names[shard::2]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))


def resident() -> dict[str, int]:
    """Bytes of this process in memory: of its own (RssAnon), and with mapped files and shared memory (all)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    sizes = {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in lines}
    return {"RssAnon": sizes["RssAnon"], "all": sum(sizes.values())}


class Peaks:
    """The largest resident memory since it was made, over that at the time, sampled every two milliseconds."""

    def __init__(self) -> None:
        self.before = resident()
        self.most = dict(self.before)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while True:
            self.most = {name: max(self.most[name], size) for name, size in resident().items()}
            time.sleep(0.002)

    def over_before(self) -> dict[str, int]:
        return {name: size - self.before[name] for name, size in self.most.items()}


def printed_by(script: str, *arguments: str, **environment: str) -> Any:
    """What a script in a process of its own prints as the last line, as JSON. It can import modules of the tests."""
    places = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": places} | environment,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])
