"""Families by their config.json: model=auto, a wrong kind, and where a checkpoint's files differ from how it is used."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from decoder_files import save_a2d, save_byte_tokenizer, save_illada
from dream_files import TEMPLATE, save_dream
from omegaconf import DictConfig, open_dict
from support import SHARED, llada_config, llada_weights, make_settings, save_llada

from rws_cli import registry
from rws_cli.config.check import check
from rws_cli.config.composing import compose, unchecked
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.models.families import FAMILIES, KINDS, check_family, family_of, recognize

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaDA-8B-Instruct": ("llada", {"model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": 4096}),
    "LLaDA-MoE": ("llada_moe", {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"], "num_experts": 64}),
    "LLaDA-MoE by its fields": ("llada_moe", {"model_type": "llada", "num_experts": 64}),
    "LLaDA without a class": ("llada", {"model_type": "llada", "num_experts": None}),
    "LLaDA2.0": ("llada2", {"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], "num_experts": 256}),
    "iLLaDA": ("illada", {"model_type": "illada", "architectures": ["ILLaDAForCausalLM"]}),
    "Dream": ("dream", {"model_type": "Dream", "architectures": ["DreamModel"]}),
    "A2D-Qwen3": ("a2d", {"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"]}),
    "A2D-Qwen2": ("a2d", {"model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"]}),
    "A2D-Llama": ("a2d", {"model_type": "a2d-llama", "architectures": ["A2DLlamaLMHeadModel"]}),
    "SDAR, TraDo": ("sdar", {"model_type": "sdar", "architectures": ["SDARForCausalLM"]}),
    "SDAR-MoE": ("sdar", {"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"]}),
    "Fast-dLLM v2": ("fast_dllm_v2", {"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"]}),
    "ModernBERT": ("masked_lm", {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}),
    "Qwen3": ("causal", {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}),
    "GPT-2": ("causal", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
}
REFUSED = {
    "DiffusionGemma": (
        {"model_type": "diffusion_gemma", "architectures": ["DiffusionGemmaForBlockDiffusion"]},
        "is a checkpoint of DiffusionGemma, which is not supported: it decodes from uniformly random tokens and has no mask token",
    ),
    "mdlm-owt": ({"model_type": "mdlm", "architectures": ["MDLM"]}, "a diffusion transformer, is not in transformers"),
    "bd3lm-owt": ({"model_type": "bd3lm", "architectures": ["BD3LM"]}, "rws runs no remote code"),
    "WeDLM": ({"model_type": "wedlm", "architectures": ["WeDLMForCausalLM"]}, "it is causal and reorders tokens"),
}
UNKNOWN = [
    {},
    {"model_type": "clip", "architectures": ["CLIPModel"]},
    {"architectures": "Qwen3ForCausalLM"},
    {"architectures": [3]},
]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_is_recognized_and_no_other_kind_loads_it(name: str) -> None:
    kind, config = CONFIGS[name]
    family = family_of(config)
    assert family is recognize(config, "x") is KINDS[kind]
    check_family(kind, config, "x")
    for other in KINDS.keys() - {kind}:
        with pytest.raises(
            UsageError, match=rf"^x is not a checkpoint of model\.kind={other}, .*: set model\.kind={kind}\.$"
        ):
            check_family(other, config, "x")
    check_family("open_dcoder", config, "x")  # a kind that is not in the table may load anything


@pytest.mark.parametrize("name", CONFIGS)
def test_auto_has_the_settings_of_every_kind(name: str, tmp_path: Path) -> None:
    kind, config = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    values = make_settings("auto", tmp_path).replacement()
    model = registry.load("model", values["kind"], "model.kind")(**values)
    assert (model.kind, model.path, model.name) == (kind, str(tmp_path), "test")
    defaults = {f.name: f.default for f in fields(model)}
    assert getattr(model, "block_size", None) == defaults.get("block_size")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_with_the_reason(name: str) -> None:
    config, words = REFUSED[name]
    for kind in KINDS:
        with pytest.raises(UsageError, match=words):
            check_family(kind, config, "x")
    with pytest.raises(UsageError, match=words):
        recognize(config, "x")


@pytest.mark.parametrize("config", UNKNOWN, ids=str)
def test_what_no_family_fits_is_left_to_the_general_kinds(config: dict[str, Any]) -> None:
    assert family_of(config) is None
    for kind in ("masked_lm", "causal"):
        check_family(kind, config, "x")
    for kind in KINDS.keys() - {"masked_lm", "causal"}:
        with pytest.raises(
            UsageError, match=rf"is not a checkpoint of model\.kind={kind}: config\.json says model_type"
        ):
            check_family(kind, config, "x")
    with pytest.raises(
        UsageError, match="It recognizes LLaDA-MoE, LLaDA, Dream, .* masked language model, causal"
    ) as raised:
        recognize(config, "x")
    assert "\n" not in str(raised.value)


def test_the_table_does_not_contradict_itself() -> None:
    architectures = [name for family in FAMILIES for name in family.architectures]
    assert len(architectures) == len(set(architectures))
    types = [(name, family.fields) for family in FAMILIES for name in family.model_types]
    assert len(types) == len(set(types))
    assert all(name == name.lower() for name, _ in types)
    assert all(bool(family.reason) == (family.kind is None) for family in FAMILIES)
    real = SHARED / "data" / "llada_8b_instruct" / "config.json"
    if real.exists():
        assert family_of(json.loads(real.read_text())) is KINDS["llada"]


# --- on files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent, config = tmp_path_factory.mktemp("families"), llada_config()
    (parent / "dream.v1").mkdir()
    return {
        "a2d": save_a2d(parent / "Qwen3 0.6B"),
        "illada": save_illada(parent / "-il"),
        "dream": save_dream(parent / "dream.v1"),
        "llada": save_llada(parent / "llada", config, llada_weights(config)),
    }


def test_another_kind_is_refused_before_weights_load(folders: dict[str, Path]) -> None:
    for kind, folder in folders.items():
        for other in folders.keys() - {kind}:
            with pytest.raises(
                UsageError, match=f"^model.path={folder} is not a checkpoint .* set model.kind={kind}.$"
            ):
                make_settings(other, folder).prepare()


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return unchecked("model=auto", "model.path=x", "sampler=confidence")


def recognized(composed: DictConfig, path: object, **settings: Any) -> Config:
    """model=auto with a path and settings."""
    changed = composed.copy()
    with open_dict(changed):
        changed.model.update({"path": str(path)} | settings)
    return check(changed)


def test_auto_is_the_kind_that_the_checkpoint_has(composed: DictConfig, folders: dict[str, Path]) -> None:
    configs = {kind: recognized(composed, folder) for kind, folder in folders.items()}
    assert {kind: config.model.kind for kind, config in configs.items()} == {kind: kind for kind in folders}
    assert [config.model.name for config in configs.values()] == ["Qwen3_0.6B", "il", "dream.v1", "llada"]
    assert all(config.model.prepare().path == str(folders[kind]) for kind, config in configs.items())
    assert composed.model.kind == "auto"
    tiny = recognized(composed, "bundled:tiny-mdm").model
    assert (tiny.kind, tiny.name) == ("llada", "tiny-mdm")
    assert not hasattr(tiny, "block_size")


def test_auto_takes_settings_and_has_the_familys_own(composed: DictConfig, folders: dict[str, Path]) -> None:
    a2d = recognized(composed, folders["a2d"], block_size=4, dtype="bfloat16", name="mine")
    assert (a2d.model.block_size, a2d.model.dtype, a2d.model.name) == (4, "bfloat16", "mine")
    assert (a2d.sampler.block_length, a2d.runtime.cache) == (4, "prefix")
    assert a2d.model.chat_template_arguments == {"enable_thinking": False}
    thinking = {"enable_thinking": True}
    assert (
        recognized(composed, folders["a2d"], chat_template_arguments=thinking).model.chat_template_arguments == thinking
    )
    assert recognized(composed, folders["a2d"]).model.block_size is None
    assert recognized(composed, folders["illada"]).model.mask_token_id == 5
    assert recognized(composed, folders["illada"], mask_token_id=0).model.mask_token_id == 0


def test_auto_refuses_in_a_sentence(composed: DictConfig, folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    for path, settings, words in (
        ("???", {}, "model.path is not set and has no default"),
        ("nowhere", {}, "model.path=nowhere does not exist"),
        ("owner/nowhere", {}, "model.path=owner/nowhere is not available"),
        (tmp_path, {}, "is of no family that model=auto recognizes: config.json says model_type clip"),
        (folders["llada"], {"block_size": 4}, "model.block_size=4 is not a setting of LLaDA, which"),
        (folders["llada"], {"dtype": "float3"}, "model.dtype=float3 is not known"),
        (folders["llada"], {"blocks": 3}, "model.blocks is not a setting here"),
    ):
        with pytest.raises(UsageError, match=words):
            recognized(composed, path, **settings)


def test_arguments_of_the_template_can_be_typed(folders: dict[str, Path]) -> None:
    for typed in ("model.chat_template_arguments={a: 1}", "model.chat_template_arguments.a=1"):
        assert compose("model=qwen3_0_6b_mdlm", typed).model.chat_template_arguments == {
            "enable_thinking": False,
            "a": 1,
        }


# --- what a checkpoint's own files state ----------------------------------------------------------------------------


def warning_of(folder: Path, kind: str = "a2d", **settings: Any) -> str | None:
    return make_settings(kind, folder, **settings).prepare().warning


def test_a_difference_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    assert [warning_of(folders[kind], kind) for kind in ("a2d", "llada", "dream")] == [None] * 3
    template = "it has a chat template, which model.chat_template=false leaves out"
    assert warning_of(folders["a2d"], chat_template=False) == f"warning: model.path={folders['a2d']}: {template}"
    folder = save_a2d(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [258, 260]}')
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
    save_byte_tokenizer(folder, special, TEMPLATE, eos_token="<|im_end|>", mask_token="<|mask|>", model_max_length=2048)
    line = warning_of(folder, chat_template=False)
    assert line == (
        f"warning: model.path={folder}: generation_config.json has end tokens [260], which do not end completions here; "
        f"its tokenizer states a context of 2048 tokens, config.json 40960; {template}"
    )
    for broken in ('{"eos_token_id": null}', "[]", "{", '{"eos_token_id": "x"}'):
        (folder / "generation_config.json").write_text(broken)
        assert "end tokens" not in str(warning_of(folder, chat_template=False))
    (folder / "generation_config.json").unlink()
    assert "end tokens" not in str(warning_of(folder, chat_template=False))


def test_runs_plans_and_single_prompts_print_it_and_records_hold_the_kind(
    rws: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = ["model=auto", f"model.path={folders['llada']}", "model.chat_template=false", "reward=none"]
    settings += ["sampler=confidence", "sampler.gen_length=8", "sampler.tokens_per_step=8", f"output={tmp_path}"]
    for arguments in (["run", "benchmark.limit=1"], ["run", "--dry-run", "benchmark.limit=1"], ["generate", "w1 w2"]):
        result = rws(*arguments, *settings)
        assert result.exit_code == 0, result.output
        assert " ".join(result.output.split()).count("it has a chat template, which") == 1
    (manifest,) = tmp_path.glob("*/*/v001/manifest.json")
    recorded = json.loads(manifest.read_text())["config"]["model"]
    assert (recorded["kind"], recorded["name"]) == ("llada", "llada")
    assert "block_size" not in recorded


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|role_end|>"])
def test_ends_of_turns_end_completions(tmp_path: Path, end: str) -> None:
    folder = save_a2d(tmp_path, eos_token_id=257)
    save_byte_tokenizer(folder, ["<|mask|>", "<|end|>", end], TEMPLATE, eos_token="<|end|>", mask_token="<|mask|>")
    assert make_settings("a2d", folder).prepare().eos_ids == (257, 258)
