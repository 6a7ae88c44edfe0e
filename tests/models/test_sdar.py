"""SDAR's and TraDo's files (Qwen3's names, a model type of their own), dense and as a mixture of experts, against an
independent forward pass; and SDAR's decoding rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from block_reference import (
    PROMPTS,
    Weights,
    check_cache,
    check_logits,
    commits,
    decode,
    gated,
    qwen_layer,
    save_qwen_files,
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
    "architectures": ["SDARForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig", "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "bos_token_id": 256, "eos_token_id": 258, "fuse_cross_entropy": True, "head_dim": 16, "hidden_act": "silu",
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 128,
    "max_window_layers": 2, "model_type": "sdar", "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.3",
    "use_cache": False, "use_sliding_window": False, "vocab_size": 264,
}  # fmt: skip
MOE = CONFIG | {
    "architectures": ["SDARMoeForCausalLM"], "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "sdar_moe",
    "auto_map": {
        "AutoConfig": "configuration_sdar_moe.SDARMoeConfig", "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM",
    },
    "moe_intermediate_size": 24, "norm_topk_prob": True, "num_experts": 6, "num_experts_per_tok": 2,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip


def weights(config: dict[str, Any]) -> dict[str, Tensor]:
    shapes = {"model.embed_tokens.weight": (264, 32), "model.norm.weight": (32,), "lm_head.weight": (264, 32)}
    for n in range(2):
        layer = {
            "self_attn.q_proj.weight": (64, 32), "self_attn.k_proj.weight": (32, 32), "self_attn.v_proj.weight": (32, 32),
            "self_attn.o_proj.weight": (32, 64), "self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,),
            "input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,),
        }  # fmt: skip
        mlps = {"mlp.": 48}
        if "num_experts" in config:
            layer["mlp.gate.weight"] = (6, 32)
            mlps = {f"mlp.experts.{expert}.": 24 for expert in range(6)}
        for name, width in mlps.items():
            layer |= {f"{name}gate_proj.weight": (width, 32), f"{name}up_proj.weight": (width, 32)}
            layer[f"{name}down_proj.weight"] = (32, width)
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return random_weights(shapes, 7)


def experts(w: dict[str, Tensor]) -> Any:
    """The two most probable experts of a token, weighted by their probabilities among the two."""

    def feed_forward(x: Tensor) -> Tensor:
        p = (w["mlp.gate.weight"] @ x).softmax(-1).tolist()
        chosen = sorted(range(6), key=lambda n: -p[n])[:2]
        total = sum(p[n] for n in chosen)
        return sum(
            p[n] / total * gated(x, *(w[f"mlp.experts.{n}.{name}_proj.weight"] for name in ("gate", "up", "down")))
            for n in chosen
        )

    return feed_forward


def slow(ids: list[int], config: dict[str, Any], size: int) -> Tensor:
    w = weights(config)
    feed_forward = experts if "num_experts" in config else None
    layers = [qwen_layer(w, n, feed_forward) for n in range(2)]
    ends = w["model.embed_tokens.weight"], layers, w["model.norm.weight"], w["lm_head.weight"]
    return slow_logits(
        ids, [n // size for n in range(len(ids))], Weights(*ends, heads=4, kv_heads=2, theta=1e6, eps=1e-6)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {"dense": tmp_path_factory.mktemp("sdar"), "moe": tmp_path_factory.mktemp("sdar_moe")}
    save_qwen_files(folders["dense"], CONFIG, weights(CONFIG), "<|MASK|>", mask_token="<|MASK|>")
    save_qwen_files(folders["moe"], MOE, weights(MOE), "<|MASK|>")  # its tokenizer does not say which token is the mask
    return folders


@pytest.fixture(scope="module")
def denoisers(folders: dict[str, Path]) -> dict[str, Denoiser]:
    return {name: make_settings("sdar", folder).load() for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_logits_equal_an_independent_forward_pass(denoisers: dict[str, Denoiser], name: str) -> None:
    check_logits(denoisers[name], lambda ids: slow(ids, CONFIG if name == "dense" else MOE, 4))


def test_blocks_may_be_larger(folders: dict[str, Path]) -> None:
    check_logits(make_settings("sdar", folders["dense"], block_size=8).load(), lambda ids: slow(ids, CONFIG, 8))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_mask_ends_and_template(denoisers: dict[str, Denoiser], name: str) -> None:
    denoiser = denoisers[name]
    assert (denoiser.mask_id, denoiser.eos_ids, denoiser.pad_id) == (259, (258, 256), 256)
    ids = denoiser.encode("Hi")
    assert denoiser.tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


RULES = {
    "dynamic": (4, 0.05), "dynamic in two steps": (2, 0.03), "dynamic in three steps": (3, 0.05), "static": (4, None),
    "static in two steps": (2, None), "sequential": (4, None), "sequential in three steps": (3, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_sdars_rules_are_those_of_a_slow_reference(denoisers: dict[str, Denoiser], name: str) -> None:
    (steps, threshold), denoiser, gen = RULES[name], denoisers["dense"], 14
    sampler = make_sampler(
        gen, block_length=4, order="left_to_right" if "sequential" in name else "confidence", confidence="tempered",
        schedule=part("schedule", "dynamic", threshold=threshold), **quota(steps),
    )  # fmt: skip
    several = 0
    for prompt, completion in zip(PROMPTS, decode(denoiser, sampler, size=4), strict=True):
        length = gen - (len(prompt) + gen) % 4
        expected = sdar_decode(denoiser, prompt, length, 4, steps, name.split()[0], threshold)
        assert commits(completion, length) == expected
        several += sum(len(step) > -(-4 // steps) for step in expected)
    assert ("dynamic" in name) == (several > 0)  # some steps commit more than their quota
    cut = decode(denoiser, sampler)  # the last block ends after gen_length: the same until there
    for prompt, completion in zip(PROMPTS, cut, strict=True):
        length = gen - (len(prompt) + gen) % 4
        assert commits(completion, length) == sdar_decode(
            denoiser, prompt, length, 4, steps, name.split()[0], threshold
        )


def quota(steps: int) -> dict[str, int]:
    """The setting with which a block of 4 takes so many steps."""
    return {"tokens_per_step": {4: 1, 2: 2}[steps]} if steps != 3 else {"steps": 12}


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_the_cache_and_the_batch_change_no_token(denoisers: dict[str, Denoiser], name: str) -> None:
    check_cache(denoisers[name], make_sampler(12, block_length=4, schedule=part("schedule", "dynamic", threshold=0.05)))


@pytest.mark.parametrize("name", ["sdar_1_7b", "sdar_4b", "sdar_8b", "sdar_30b_a3b", "trado_4b", "trado_8b"])
def test_presets_have_blocks_of_four(name: str) -> None:
    preset = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    assert (preset["name"], preset["kind"], preset["block_size"]) == (name, "sdar", 4)


def test_the_sampler_takes_the_blocks_of_the_model() -> None:
    composed = compose("model=sdar_1_7b", "sampler=sdar_dynamic", "reward=none")
    assert (composed.model.topology.block_size, composed.sampler.block_length) == (4, 4)
    assert composed.sampler.schedule.threshold == 0.9


def test_other_families_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["dense"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "qwen3"}))
    with pytest.raises(UsageError, match="model_type=qwen3, not sdar"):
        make_settings("sdar", tmp_path).prepare()


def test_headers_are_compared_before_weights_load(folders: dict[str, Path], tmp_path: Path) -> None:
    make_settings("sdar", folders["moe"]).check()
    for file in folders["dense"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    with pytest.raises(UsageError, match="missing weights"):
        make_settings("sdar", tmp_path).check()
