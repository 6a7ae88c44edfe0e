"""The cost that a plan promises: that of decoding, block by block and with an exact cache; and weights of experts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from block_models import block_denoiser
from dream_files import save_dream
from support import make_sampler, part, random_weights, save_sharded

from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.runs import doctor
from rws_cli.runs.plan import Decoding, decodings_of, plan

PROMPTS = {"five": [1, 2, 3, 4, 5], "two": [6, 7], "eight": [8, 9, 10, 11, 12, 13, 14, 15], "one": [16]}


def planned(
    denoiser: Any, sampler: Any, cache: str, prompts: Any = PROMPTS, turn: int = 0, shift: int = 0
) -> list[Decoding]:
    config: Any = SimpleNamespace(
        sampler=sampler, runtime=SimpleNamespace(cache=cache), model=SimpleNamespace(shift=shift)
    )
    prepared: Any = SimpleNamespace(model=denoiser, prompts=prompts, turn=dict.fromkeys(prompts, turn), pairs={})
    return list(decodings_of(config, prepared))


def recorded(denoiser: Any, sampler: Any, cache: str, prompts: Any = PROMPTS) -> list[tuple[int, int]]:
    """Passes and tokens of decoding each prompt by itself."""
    costs = []
    for name, ids in prompts.items():
        stored = PrefixCache(denoiser, 1) if cache == "prefix" else None
        ((completion,),) = Decoder(denoiser, [prompt_of(ids, 0, name)], sampler, rows=1, cache=stored).run()
        costs.append((completion.cost.mdm_passes, completion.cost.mdm_tokens))
    return costs


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize(
    ("size", "anchor", "first_token", "shift"),
    [(4, "sequence", False, 0), (4, "completion", False, 0), (8, "sequence", True, 1), (1, "sequence", True, 1)],
)
@pytest.mark.parametrize("settings", [{}, {"tokens_per_step": 2}, {"block_length": 2}, {"length": 13}], ids=str)
def test_the_plan_is_what_decoding_costs(
    size: int, anchor: str, first_token: bool, shift: int, cache: str, settings: dict[str, Any]
) -> None:
    length, settings = settings.get("length", 16), {"block_length": size} | settings
    settings.pop("length", None)
    if settings["block_length"] > size or settings.get("tokens_per_step", 1) > settings["block_length"]:
        pytest.skip("no such sampler")
    denoiser, sampler = block_denoiser(size, anchor, first_token, shift), make_sampler(length, **settings)
    promised = [(one.steps, one.tokens) for one in planned(denoiser, sampler, cache, shift=shift)]
    assert promised == recorded(denoiser, sampler, cache)


def test_full_attention_passes_everything_at_each_step() -> None:
    sampler = make_sampler(16, block_length=8, tokens_per_step=3)
    assert planned(block_denoiser(None), sampler, "none") == [
        Decoding(2, 6, 6, 6 * (len(ids) + 16)) for ids in PROMPTS.values()
    ]


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize(
    ("kind", "shift"),
    [
        ("threshold", 0),
        ("klass", 0),
        ("prophet", 0),
        ("remdm", 0),
        ("refine", 0),
        ("fixed", 1),
        ("edit", 0),
        ("dynamic", 0),
    ],
)
def test_the_plan_is_a_bound_for_schedules_that_decide_themselves(kind: str, shift: int, cache: str) -> None:
    denoiser = block_denoiser(4, shift=shift)
    more = {"rounds": 2} if kind == "refine" else {}
    sampler = make_sampler(16, block_length=4, schedule=part("schedule", kind, **more))
    bounds = planned(denoiser, sampler, cache, shift=shift)
    for bound, (passes, tokens) in zip(bounds, recorded(denoiser, sampler, cache), strict=True):
        assert 0 < passes <= bound.steps
        assert tokens <= bound.tokens


def test_a_later_turn_is_bounded_however_long_the_completion_before_it_is() -> None:
    denoiser, sampler = block_denoiser(4), make_sampler(4, block_length=4)
    (bound,) = planned(denoiser, sampler, "prefix", {"one": [16]}, turn=1)
    prompts = {str(length): [16] * (1 + length) for length in range(5)}
    assert max(tokens for _, tokens in recorded(denoiser, sampler, "prefix", prompts)) == bound.tokens


EXPERTS, CHOSEN, SHARED = 8, 2, 1
MOE = {
    "architectures": ["SDARMoeForCausalLM"], "model_type": "sdar_moe", "attention_bias": False, "bos_token_id": 256,
    "eos_token_id": 256, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
    "mask_token_id": 259, "max_position_embeddings": 512, "mlp_only_layers": [], "moe_intermediate_size": 16,
    "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "use_sliding_window": False,
    "vocab_size": 264,
}  # fmt: skip


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SDAR-MoE checkpoint, in the format of the hub's."""
    folder = save_dream(tmp_path_factory.mktemp("moe"))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (264, 32), "model.norm.weight": (32,), "lm_head.weight": (264, 32),
    }  # fmt: skip
    for n in range(2):
        at = f"model.layers.{n}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (32, 32), f"{at}self_attn.k_proj.weight": (16, 32),
            f"{at}self_attn.v_proj.weight": (16, 32), f"{at}self_attn.o_proj.weight": (32, 32),
            f"{at}self_attn.q_norm.weight": (8,), f"{at}self_attn.k_norm.weight": (8,),
            f"{at}input_layernorm.weight": (32,), f"{at}post_attention_layernorm.weight": (32,),
            f"{at}mlp.gate.weight": (EXPERTS, 32),
        }  # fmt: skip
        for expert in range(EXPERTS):
            shapes |= {f"{at}mlp.experts.{expert}.{name}_proj.weight": (16, 32) for name in ("gate", "up")}
            shapes[f"{at}mlp.experts.{expert}.down_proj.weight"] = (32, 16)
    save_sharded(random_weights(shapes, 0), folder)
    (folder / "config.json").write_text(json.dumps(MOE))
    return folder


OUTSIDE_EXPERTS = 2 * 264 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 2 * 8 + 2 * 32 + 8 * 32)
EACH_EXPERT = 3 * 16 * 32


def settings_of(folder: Path, *more: str) -> list[str]:
    return [
        "model=dream", "model.kind=sdar", f"model.path={folder}", "model.chat_template=false", "reward=none",
        "sampler=confidence", "sampler.gen_length=8", "sampler.block_length=4", "benchmark=arithmetic",
        "benchmark.limit=3", "runtime.batch_size=3", *more,
    ]  # fmt: skip


def test_flops_count_the_experts_that_a_token_chooses(moe: Path, rws) -> None:
    promised = plan(compose(*settings_of(moe)))
    active = OUTSIDE_EXPERTS + 2 * CHOSEN * EACH_EXPERT
    assert promised["MDM weights"] == OUTSIDE_EXPERTS + 2 * EXPERTS * EACH_EXPERT
    assert promised["of these active for a token"] == active
    assert promised["MDM FLOPs, about"] == 2.0 * active * promised["tokens through the MDM, at most"]
    assert f"{active:,}" in rws("run", "--dry-run", *settings_of(moe)).output
    assert "of these active for a token" not in plan(compose("benchmark=arithmetic", "benchmark.limit=1"))


def test_doctor_counts_weights_logits_and_cache(moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GIB", 1)  # so that small figures show

    def found(*more: str) -> dict[str, str]:
        return {f.name: f.detail for f in doctor.check_components(compose(*settings_of(moe, *more)))}

    weights = 4 * (OUTSIDE_EXPERTS + 2 * EXPERTS * EACH_EXPERT)
    logits = 3 * 3 * 4 * 4 * 264  # with two copies; 3 rows, a block of 4 tokens, 4 bytes
    lines = found()
    config = compose(*settings_of(moe))
    longest = max(len(config.model.prepare().encode(e.prompt)) for e in config.benchmark.examples())
    length = longest + 8
    cache = 2 * 2 * 2 * 8 * (length + 1) * 3 * 4  # keys and values, layers, heads, width, columns, rows, bytes
    attention, experts = 4 * (4 * 32 + 2 * 16) + 5 * length, 4 * CHOSEN * 4 * 32  # of a token
    activations = 3 * length * (4 * 4 * 32 + max(attention, experts))
    assert activations > logits
    assert f"{OUTSIDE_EXPERTS + 2 * CHOSEN * EACH_EXPERT:,} of the weights are active" in lines["decoding step"]
    assert f"3 rows of up to {length} tokens" in lines["decoding step"]
    peak = weights + cache + activations
    assert lines["memory plan"] == (
        f"{peak:.2f} GiB: weights {weights:.2f}, cache {cache:.2f}, and the larger of activations {activations:.2f} and logits "
        f"{logits:.2f}"
    )
    assert lines["memory on cpu"].startswith(f"{peak:.2f} GiB")
    assert "cache 0.00" in found("runtime.cache=none")["memory plan"]
    monkeypatch.setattr(doctor, "free_memory", lambda device: weights + (activations + cache) * 2 // 3 + 1)
    assert "set runtime.batch_size=2, which fits" in found()["memory on cpu"]
    assert found("runtime.batch_size=2")["memory on cpu"].endswith(": fits")
