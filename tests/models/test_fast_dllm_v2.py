"""Fast-dLLM v2's files (Qwen2's names, biases, a tied head, `bd_size`) against an independent forward pass; and its decoding
rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from block_models import blocks_of, logits_of, proposed
from block_reference import (
    PROMPTS,
    Weights,
    check_cache,
    check_logits,
    commits,
    decode,
    qwen_layer,
    save_qwen_files,
    slow_logits,
)
from support import make_sampler, make_settings, part, random_weights
from torch import Tensor

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.models.base import Denoiser

CONFIG: dict[str, Any] = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"], "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration.Fast_dLLM_QwenConfig", "AutoModel": "modeling.Fast_dLLM_QwenModel",
        "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
    },
    "bd_size": 4, "bos_token_id": 256, "eos_token_id": 258, "hidden_act": "silu", "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 48, "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 128, "max_window_layers": 2, "model_type": "Fast_dLLM_Qwen", "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.53.1", "use_cache": False, "use_sliding_window": False, "vocab_size": 264,
}  # fmt: skip


def weights() -> dict[str, Tensor]:
    shapes = {"model.embed_tokens.weight": (264, 32), "model.norm.weight": (32,)}
    for n in range(2):
        layer = {
            "self_attn.q_proj.weight": (32, 32), "self_attn.k_proj.weight": (16, 32), "self_attn.v_proj.weight": (16, 32),
            "self_attn.q_proj.bias": (32,), "self_attn.k_proj.bias": (16,), "self_attn.v_proj.bias": (16,),
            "self_attn.o_proj.weight": (32, 32), "mlp.gate_proj.weight": (48, 32), "mlp.up_proj.weight": (48, 32),
            "mlp.down_proj.weight": (32, 48), "input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,),
        }  # fmt: skip
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return random_weights(shapes, 8)


def slow(ids: list[int]) -> Tensor:
    w = weights()
    ends = w["model.embed_tokens.weight"], [qwen_layer(w, n) for n in range(2)], w["model.norm.weight"]
    blocks = [n // 4 for n in range(len(ids))]
    return slow_logits(ids, blocks, Weights(*ends, ends[0], heads=4, kv_heads=2, theta=1e6, eps=1e-6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen_files(tmp_path_factory.mktemp("fast"), CONFIG, weights(), "|<MASK>|")


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    return make_settings("fast_dllm_v2", folder, block_size=4).load()


def test_logits_equal_an_independent_forward_pass(denoiser: Denoiser) -> None:
    check_logits(denoiser, slow)


def test_mask_ends_and_template(denoiser: Denoiser) -> None:
    assert (denoiser.mask_id, denoiser.eos_ids, denoiser.pad_id) == (259, (258, 256), 256)
    assert denoiser.tokenizer.decode(denoiser.encode("Hi")).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")


def fast_decode(
    denoiser: Denoiser, prompt: list[int], length: int, size: int, sub_block: int, threshold: float
) -> list[list[tuple[int, int]]]:
    """(position, token) of each step's commits by the published rule at T = 0, for a completion that ends with a block."""
    x, trace = [*prompt, *[denoiser.mask_id] * length], []
    blocks = blocks_of(len(prompt), len(x), size, "sequence")

    def token_at(logits: Tensor) -> int:
        return proposed(logits, denoiser.mask_id)

    for begin in range(len(prompt) // size * size, len(x), size):
        end = begin + size
        if x[begin] == denoiser.mask_id:  # the last position of a pass over all blocks before predicts it
            x[begin] = token_at(logits_of(denoiser, x[:begin], blocks[:begin])[-1])
            trace.append([(begin - len(prompt), x[begin])])
        for first in range(begin, end, sub_block):
            while masked := [n for n in range(first, first + sub_block) if x[n] == denoiser.mask_id]:
                logits = logits_of(denoiser, x[:end], blocks[:end]).double()
                token = {n: token_at(logits[n - 1]) for n in masked}
                p = {n: float(logits[n - 1].softmax(-1)[token[n]]) for n in masked}
                chosen = {n for n in masked if p[n] > threshold} | {max(masked, key=lambda n: p[n])}
                for n in chosen:
                    x[n] = token[n]
                trace.append(sorted((n - len(prompt), token[n]) for n in chosen))
    return trace


@pytest.mark.parametrize(("sub_block", "threshold"), [(2, 0.9), (2, 0.03), (4, 0.05)])
def test_the_rule_is_that_of_a_slow_reference(denoiser: Denoiser, sub_block: int, threshold: float) -> None:
    gen = 14
    schedule = part("schedule", "threshold", threshold=threshold)
    sampler = make_sampler(gen, block_length=sub_block, confidence="tempered", schedule=schedule)
    several = 0
    whole, cut = decode(denoiser, sampler, size=4), decode(denoiser, sampler)
    for prompt, completion, other in zip(PROMPTS, whole, cut, strict=True):
        length = gen - (len(prompt) + gen) % 4
        expected = fast_decode(denoiser, prompt, length, 4, sub_block, threshold)
        assert commits(completion, length) == expected
        assert commits(other, length) == expected  # its last block ends after gen_length
        several += sum(len(step) > 1 for step in expected)
    assert several == 0 if threshold == 0.9 else several > 3


def test_the_cache_and_the_batch_change_no_token(denoiser: Denoiser) -> None:
    check_cache(denoiser, make_sampler(12, block_length=2, schedule=part("schedule", "threshold", threshold=0.05)))


def test_another_block_size_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="set model.block_size=4"):
        make_settings("fast_dllm_v2", folder).prepare()


def test_other_families_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "qwen2"}))
    with pytest.raises(UsageError, match="model_type=qwen2, not Fast_dLLM_Qwen"):
        make_settings("fast_dllm_v2", tmp_path).prepare()


def test_headers_are_compared_before_weights_load(folder: Path) -> None:
    make_settings("fast_dllm_v2", folder, block_size=4).check()


@pytest.mark.parametrize("name", ["fast_dllm_v2_1_5b", "fast_dllm_v2_7b"])
def test_presets(name: str) -> None:
    composed = compose(f"model={name}", "sampler=fast_dllm_v2", "reward=none", "sampler.gen_length=256")
    assert (composed.model.topology.block_size, composed.model.topology.first_token) == (32, True)
    assert (composed.sampler.block_length, composed.sampler.schedule.threshold) == (8, 0.9)
