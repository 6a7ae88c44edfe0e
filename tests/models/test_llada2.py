"""LLaDA2's files (its own names, query, key and value as one weight) against an independent forward pass that routes token by
token; and LLaDA2.0's decoding rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from block_reference import (
    PROMPTS,
    Layer,
    Weights,
    check_cache,
    check_logits,
    commits,
    decode,
    gated,
    save_role_files,
    sdar_decode,
    slow_logits,
)
from support import make_sampler, make_settings, part, random_weights
from torch import Tensor

from rws_cli.config.catalog import CONF
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.models.base import Denoiser

CONFIG: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"], "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig", "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "dtype": "bfloat16", "embedding_dropout": 0.0, "eos_token_id": 1, "first_k_dense_replace": 1, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "max_position_embeddings": 128, "max_window_layers": 3, "model_type": "llada2_moe", "moe_intermediate_size": 24,
    "moe_router_enable_expert_bias": True, "n_group": 4, "norm_head": False, "norm_topk_prob": True,
    "num_attention_heads": 4, "num_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "num_shared_experts": 1, "output_dropout": 0.0, "output_router_logits": False,
    "pad_token_id": 1, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 600000,
    "rotary_dim": 8, "routed_scaling_factor": 2.5, "router_dtype": "fp32", "score_function": "sigmoid",
    "sliding_window": 4096, "tie_word_embeddings": False, "topk_group": 2, "transformers_version": "4.57.1",
    "use_bias": False, "use_cache": True, "use_qk_norm": True, "use_qkv_bias": False, "use_rmsnorm": True,
    "use_sliding_window": False, "vocab_size": 66,
}  # fmt: skip


def mlp(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gate_proj.weight": (width, 32), f"{name}.up_proj.weight": (width, 32), f"{name}.down_proj.weight": (32, width)
    }  # fmt: skip


def weights() -> dict[str, Tensor]:
    shapes = {"model.word_embeddings.weight": (66, 32), "model.norm.weight": (32,), "lm_head.weight": (66, 32)}
    for n in range(3):
        layer = {
            "attention.query_key_value.weight": ((4 + 2 + 2) * 16, 32), "attention.dense.weight": (32, 64),
            "attention.query_layernorm.weight": (16,), "attention.key_layernorm.weight": (16,),
            "input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,),
        }  # fmt: skip
        if n < 1:
            layer |= mlp("mlp", 48)
        else:
            layer |= {"mlp.gate.weight": (8, 32), "mlp.gate.expert_bias": (8,)} | mlp("mlp.shared_experts", 24)
            for expert in range(8):
                layer |= mlp(f"mlp.experts.{expert}", 24)
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return random_weights(shapes, 10)


def experts(w: dict[str, Tensor]) -> Any:
    """Each token goes to 3 experts of the best 2 of 4 groups, and to the shared one.

    An expert's score is a sigmoid; with its bias added it decides the choice, without it the share. A group's score is the
    sum of its two highest ones.
    """

    def expert(name: str, x: Tensor) -> Tensor:
        return gated(x, *(w[f"mlp.{name}.{part}_proj.weight"] for part in ("gate", "up", "down")))

    def feed_forward(x: Tensor) -> Tensor:
        score = torch.sigmoid(w["mlp.gate.weight"] @ x).tolist()
        biased = [s + float(bias) for s, bias in zip(score, w["mlp.gate.expert_bias"], strict=True)]
        groups = [sum(sorted(biased[2 * g : 2 * g + 2])[-2:]) for g in range(4)]
        open_groups = sorted(range(4), key=lambda g: -groups[g])[:2]
        chosen = sorted((n for n in range(8) if n // 2 in open_groups), key=lambda n: -biased[n])[:3]
        total = sum(score[n] for n in chosen)
        routed = sum(score[n] / total * 2.5 * expert(f"experts.{n}", x) for n in chosen)
        return routed + expert("shared_experts", x)

    return feed_forward


def slow_layer(w: dict[str, Tensor], number: int) -> Layer:
    w = {k.removeprefix(f"model.layers.{number}."): v for k, v in w.items() if k.startswith(f"model.layers.{number}.")}
    fused = w["attention.query_key_value.weight"]
    dense = [w.get(f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")]
    return Layer(
        w["input_layernorm.weight"], (fused[:64], None), (fused[64:96], None), (fused[96:], None),
        w["attention.dense.weight"], w["attention.query_layernorm.weight"], w["attention.key_layernorm.weight"],
        w["post_attention_layernorm.weight"], experts(w) if number else lambda x: gated(x, *dense),
    )  # fmt: skip


def slow(ids: list[int]) -> Tensor:
    w = weights()
    layers = [slow_layer(w, n) for n in range(3)]
    ends = w["model.word_embeddings.weight"], layers, w["model.norm.weight"], w["lm_head.weight"]
    decoder = Weights(*ends, heads=4, kv_heads=2, theta=600000, eps=1e-6, rotary=0.5)
    return slow_logits(ids, [n // 4 for n in range(len(ids))], decoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_role_files(tmp_path_factory.mktemp("llada2"), CONFIG, weights())


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    return make_settings("llada2", folder, block_size=4).load()


def test_logits_equal_an_independent_forward_pass(denoiser: Denoiser) -> None:
    check_logits(denoiser, slow)


def test_mask_ends_and_template(denoiser: Denoiser) -> None:
    assert (denoiser.mask_id, denoiser.eos_ids, denoiser.pad_id) == (3, (1, 2), 1)
    assert denoiser.encode("w1").count(2) == 1  # the end of the user's turn


@pytest.mark.parametrize("threshold", [0.95, 0.25])
def test_the_rule_is_that_of_a_slow_reference(denoiser: Denoiser, threshold: float) -> None:
    gen, schedule = 14, part("schedule", "dynamic", threshold=threshold)
    sampler = make_sampler(gen, block_length=4, confidence="tempered", schedule=schedule)
    several = 0
    for prompt, completion in zip(PROMPTS, decode(denoiser, sampler, size=4), strict=True):
        length = gen - (len(prompt) + gen) % 4
        expected = sdar_decode(denoiser, prompt, length, 4, 4, "dynamic", threshold)
        assert commits(completion, length) == expected
        several += sum(len(step) > 1 for step in expected)
    assert (several > 3) == (threshold < 0.9)


def test_the_cache_and_the_batch_change_no_token(denoiser: Denoiser) -> None:
    check_cache(denoiser, make_sampler(12, block_length=4, schedule=part("schedule", "dynamic", threshold=0.25)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_type", "glm4_moe"), ("score_function", "softmax"), ("use_bias", True), ("use_qkv_bias", True)],
)
def test_other_architectures_are_refused(folder: Path, tmp_path: Path, field: str, value: Any) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(UsageError, match=f"is not supported: config.json has {field}={value}"):
        make_settings("llada2", tmp_path).prepare()


def test_headers_are_compared_before_weights_load(folder: Path, tmp_path: Path) -> None:
    make_settings("llada2", folder).check()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for changed, problem in (({"num_hidden_layers": 4}, "missing weights"), ({"head_dim": 8}, "mismatched weights")):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | changed))
        for attempt in ("check", "load"):
            with pytest.raises(UsageError, match=problem):
                getattr(make_settings("llada2", tmp_path), attempt)()


def test_it_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="tensor_parallel does not work with model.kind=llada2"):
        compose(
            "model=llada2_mini",
            "reward=none",
            "sampler=llada2",
            "runtime.backend=tensor_parallel",
            "sampler.gen_length=64",
        )


@pytest.mark.parametrize("name", ["llada2_mini", "llada2_flash", "llada2_1_mini", "llada2_1_flash"])
def test_presets(name: str) -> None:
    preset = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    assert (preset["name"], preset["kind"]) == (name, "llada2")
    assert (preset["block_size"], preset["mask_token_id"]) == (32, 156895)


def test_the_sampler_takes_the_blocks_of_the_model() -> None:
    composed = compose("model=llada2_mini", "reward=none", "sampler=llada2", "sampler.gen_length=256")
    assert (composed.model.topology.block_size, composed.sampler.block_length) == (32, 32)
    assert (composed.sampler.schedule.threshold, composed.sampler.temperature) == (0.95, 0.0)
