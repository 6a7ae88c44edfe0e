"""The memory that loading takes: little more than the weights, in the dtype that is wanted. Run by `make test-slow`.

Safetensors files are mapped into memory, and weights stay views of the mapped file where neither dtype nor shape changes:
then the pages of the file are the weights, and all resident memory is counted (RssFile + RssAnon). Where weights are
rewritten, the pages of the file are counted apart: they are clean, and the kernel drops them when memory is short. So
RssAnon, what only the process holds, is limited too.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_files import QWEN_SPECIAL, save_byte_tokenizer
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

LIMIT = 1.3
"""Times the size of the weights that are loaded."""
MEASURE = """
import json, sys, threading, time
import torch, transformers
from rws_cli.config.composing import compose

def resident():
    lines = (line.split() for line in open("/proc/self/status") if line.startswith("Rss"))
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in lines}

def watch():
    while True:
        now = resident()
        for name, peak in (("RssAnon", now["RssAnon"]), ("all", sum(now.values()))):
            peaks[name] = max(peaks[name], peak)
        time.sleep(0.002)

settings = compose(*sys.argv[1:], "reward=none", "sampler=confidence").model
prepared = settings.prepare()
before = resident()
before = {"RssAnon": before["RssAnon"], "all": sum(before.values())}
peaks = dict(before)
threading.Thread(target=watch, daemon=True).start()
model = settings.load(prepared).model
for weight in model.parameters():
    weight.flatten()[::1024].sum().item()  # a page that was never read is not resident yet
size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
print(json.dumps({"size": size} | {name: peaks[name] - before[name] for name in peaks}))
"""


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


def save_qwen3(folder: Path, layers: int, dtype: torch.dtype, tied: bool = False) -> None:
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
    save(folder, QWEN3 | {"num_hidden_layers": layers, "tie_word_embeddings": tied}, shapes, dtype)


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


def peaks(folder: Path, kind: str, dtype: str) -> dict[str, float]:
    """The peaks of memory while a process of its own loads a model, less what it held before, in sizes of the model."""
    overrides = [
        "model=masked_lm", f"model.kind={kind}", f"model.path={folder}", f"model.dtype={dtype}", "model.device=cpu",
        "model.chat_template=false", "model.mask_token_id=259", "sampler.gen_length=32", "sampler.block_length=32",
    ]  # fmt: skip
    process = subprocess.run([sys.executable, "-c", MEASURE, *overrides], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert 0.8e9 < found["size"] < 1.3e9
    return {name: found[name] / found["size"] for name in ("RssAnon", "all")}


VIEWS: dict[str, tuple[Any, str, str]] = {
    "bfloat16": (lambda folder: save_qwen3(folder, 18, torch.bfloat16), "a2d", "bfloat16"),
    "tied head": (lambda folder: save_qwen3(folder, 24, torch.bfloat16, tied=True), "a2d", "bfloat16"),
    "float32": (lambda folder: save_qwen3(folder, 4, torch.float32), "a2d", "float32"),
    "split query, key and value": (lambda folder: save_llada2(folder, 26, torch.bfloat16, 26), "llada2", "bfloat16"),
}
REWRITTEN: dict[str, tuple[Any, str, str]] = {
    "float32 as bfloat16": (lambda folder: save_qwen3(folder, 18, torch.float32), "a2d", "bfloat16"),
    "bfloat16 as float32": (lambda folder: save_qwen3(folder, 4, torch.bfloat16), "a2d", "float32"),
    "experts": (lambda folder: save_llada2(folder, 14, torch.bfloat16, 1), "llada2", "bfloat16"),
}


@pytest.mark.parametrize(("make", "kind", "dtype"), VIEWS.values(), ids=VIEWS)
def test_all_memory_is_little_more_than_the_weights(tmp_path: Path, make: Any, kind: str, dtype: str) -> None:
    make(tmp_path)
    assert 0.9 < peaks(tmp_path, kind, dtype)["all"] < LIMIT


@pytest.mark.parametrize(("make", "kind", "dtype"), REWRITTEN.values(), ids=REWRITTEN)
def test_weights_are_rewritten_one_by_one(tmp_path: Path, make: Any, kind: str, dtype: str) -> None:
    make(tmp_path)
    assert 0.7 < peaks(tmp_path, kind, dtype)["RssAnon"] < LIMIT
