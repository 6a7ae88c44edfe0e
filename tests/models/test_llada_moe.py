"""LLaDA-MoE's files against an independent forward pass that routes token by token; and LLaDA's decoding rule on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from block_models import logits_of, surest
from block_reference import (
    PROMPTS,
    Weights,
    check_logits,
    decode,
    gated,
    qwen_layer,
    save_role_files,
    slow_logits,
)
from support import make_sampler, make_settings, random_weights
from torch import Tensor

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.models.base import Denoiser

CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAMoEModelLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_lladamoe.LLaDAConfig", "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM",
        "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM",
    },
    "clip_qkv": None, "dense_intermediate_size": 80, "eos_token_id": 1, "expert_intermediate_size": 24,
    "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "max_position_embeddings": 128,
    "model_type": "llada", "moe_layer_freq": [1, 1], "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax", "norm_topk_prob": None, "num_attention_heads": 4, "num_experts": 6,
    "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 4, "output_router_logits": False,
    "pad_token_id": 1, "partial_rotary_factor": 1.0, "qk_layernorm": True, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 50000, "routed_scaling_factor": 1, "router_aux_loss_coef": 0.01, "router_num_group": None,
    "router_topk_group": None, "shared_expert_intermediate_size": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.53.2", "use_cache": False, "vocab_size": 66,
}  # fmt: skip


def weights() -> dict[str, Tensor]:
    shapes = {"model.embed_tokens.weight": (66, 32), "model.norm.weight": (32,), "lm_head.weight": (66, 32)}
    for n in range(2):
        layer = {f"self_attn.{name}_proj.weight": (32, 32) for name in "qkvo"}
        layer |= {
            "self_attn.q_norm.weight": (8,), "self_attn.k_norm.weight": (8,), "mlp.gate.weight": (6, 32),
            "input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,),
        }  # fmt: skip
        for expert in range(6):
            for name, shape in (("gate", (24, 32)), ("up", (24, 32)), ("down", (32, 24))):
                layer[f"mlp.experts.{expert}.{name}_proj.weight"] = shape
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return random_weights(shapes, 9)


def experts(w: dict[str, Tensor]) -> Any:
    """The two most probable experts of a token, weighted by their probabilities among all."""

    def feed_forward(x: Tensor) -> Tensor:
        p = (w["mlp.gate.weight"] @ x).softmax(-1).tolist()
        chosen = sorted(range(6), key=lambda n: -p[n])[:2]
        return sum(
            p[n] * gated(x, *(w[f"mlp.experts.{n}.{name}_proj.weight"] for name in ("gate", "up", "down")))
            for n in chosen
        )

    return feed_forward


def slow(ids: list[int]) -> Tensor:
    w = weights()
    layers = [qwen_layer(w, n, experts) for n in range(2)]
    ends = w["model.embed_tokens.weight"], layers, w["model.norm.weight"], w["lm_head.weight"]
    return slow_logits(ids, [0] * len(ids), Weights(*ends, heads=4, kv_heads=4, theta=50000, eps=1e-5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_role_files(tmp_path_factory.mktemp("llada_moe"), CONFIG, weights())


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    return make_settings("llada_moe", folder).load()


def test_logits_equal_an_independent_forward_pass(denoiser: Denoiser) -> None:
    check_logits(denoiser, slow)


def test_mask_ends_and_template(denoiser: Denoiser) -> None:
    assert (denoiser.mask_id, denoiser.eos_ids, denoiser.pad_id) == (3, (1, 2), 1)
    assert make_settings("llada_moe", denoiser.path, mask_token_id=60).prepare().mask_id == 60
    assert denoiser.encode("w1").count(2) == 1  # the end of the user's turn
    assert denoiser.text([6, 2, 7]) == "w1"


@pytest.mark.parametrize("rows", [1, 3])
def test_tokens_are_those_of_lladas_rule(denoiser: Denoiser, rows: int) -> None:
    """Blocks of 4, the surest token of the block at each step, every pass over prompt and all masks."""
    completions = decode(denoiser, make_sampler(8, block_length=4), rows, cached=False)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids, trace = [*prompt, *[3] * 8], []
        for step in range(8):
            logits = logits_of(denoiser, ids, [0] * len(ids))
            first = len(prompt) + step // 4 * 4
            (place,) = surest({n: logits[n] for n in range(first, first + 4) if ids[n] == 3}, mask=3)
            ids[place] = max((n for n in range(66) if n != 3), key=lambda n: float(logits[place, n]))
            trace.append((place - len(prompt), ids[place]))
        assert list(zip(completion.trace.position, completion.trace.token, strict=True)) == trace


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shared_expert_intermediate_size", 24), ("moe_router_score_function", "sigmoid"), ("partial_rotary_factor", 0.5),
        ("moe_router_enable_expert_bias", True), ("moe_layer_freq", [0, 1]), ("clip_qkv", 8.0), ("qk_layernorm", False),
    ],
)  # fmt: skip
def test_other_architectures_are_refused(folder: Path, tmp_path: Path, field: str, value: Any) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(UsageError, match=f"is not supported: config.json has {field}="):
        make_settings("llada_moe", tmp_path).prepare()


def test_a_dense_llada_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    dense = {name: value for name, value in CONFIG.items() if name != "dense_intermediate_size"}
    (tmp_path / "config.json").write_text(json.dumps(dense))
    with pytest.raises(UsageError, match="config.json without dense_intermediate_size"):
        make_settings("llada_moe", tmp_path).prepare()


def test_headers_are_compared_before_weights_load(folder: Path, tmp_path: Path) -> None:
    make_settings("llada_moe", folder).check()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"expert_intermediate_size": 20}))
    with pytest.raises(UsageError, match="mismatched weights"):
        make_settings("llada_moe", tmp_path).check()


@pytest.mark.parametrize(("name", "template"), [("llada_moe", True), ("llada_moe_base", False)])
def test_presets(name: str, template: bool) -> None:
    model = compose(f"model={name}", "reward=none", "sampler=confidence").model
    assert (model.kind, model.mask_token_id, model.chat_template) == ("llada_moe", 156895, template)
