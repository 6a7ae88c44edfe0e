"""LoRA adapters: logits of base weights + (alpha / r)·B·A, and a sentence for each adapter that does not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_files import QWEN_SPECIAL, save_byte_tokenizer
from dream_files import CONFIG, save_dream, weights
from reference import dream_logits, llada_logits
from safetensors.torch import save_file
from support import llada_config, llada_weights, make_settings, small_run
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.runs.prepared import prepare

ADAPTER = {
    "auto_mapping": None, "base_model_name_or_path": "Dream-org/Dream-v0-Base-7B", "bias": "none", "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 6,
    "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "peft_type": "LORA", "r": 2, "rank_pattern": {}, "alpha_pattern": {}, "revision": None,
    "target_modules": ["q_proj", "down_proj"], "task_type": "FEATURE_EXTRACTION", "use_dora": False,
    "use_rslora": False,
}  # fmt: skip
TOKENS = torch.tensor([5, 9, 259, 40, 259, 7])


def products(names: list[str], base: dict[str, Tensor], r: int = 2, seed: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, in) and B (out, r) for each of these weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(r, base[f"{name}.weight"].shape[1], generator=generator) * 0.3,
            torch.randn(base[f"{name}.weight"].shape[0], r, generator=generator) * 0.3,
        )
        for name in names
    }


def save_adapter(folder: Path, pairs: dict[str, tuple[Tensor, Tensor]], **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {f"base_model.model.{name}.lora_A.weight": a for name, (a, _) in pairs.items()}
    stored |= {f"base_model.model.{name}.lora_B.weight": b for name, (_, b) in pairs.items()}
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | fields))
    return folder


@pytest.fixture
def dream(tmp_path: Path) -> Path:
    folder = tmp_path / "dream"
    folder.mkdir()
    return save_dream(folder)


CHANGED = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]


def logits_of(settings: Any, tokens: Tensor = TOKENS) -> Tensor:
    denoiser, everywhere = settings.load(), torch.ones(1, len(tokens), dtype=torch.bool)
    with torch.inference_mode():
        return denoiser.logits(tokens[None], everywhere, everywhere)


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({}, 6 / 2),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"model.layers.0.self_attn.q_proj": 1}}, None),
    ],
)
def test_logits_are_those_of_the_merged_weights(
    dream: Path, tmp_path: Path, fields: dict[str, Any], factor: float | None
) -> None:
    base = weights()
    pairs = products(CHANGED, base)
    adapter = save_adapter(tmp_path / "adapter", pairs, **fields)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in dream.glob("*.safetensors")}
    merged = dict(base)
    for name, (a, b) in pairs.items():
        scale = factor or (1 / 2 if "q_proj" in name else 6 / 2)
        merged[f"{name}.weight"] = base[f"{name}.weight"] + scale * b @ a
    settings = make_settings("dream", dream, adapter=str(adapter))
    torch.testing.assert_close(logits_of(settings), dream_logits(TOKENS, merged, CONFIG), atol=1e-5, rtol=1e-5)
    assert (dream_logits(TOKENS, merged, CONFIG) - dream_logits(TOKENS, base, CONFIG)).abs().max() > 0.1
    model = settings.load().model
    assert set(model.state_dict()) == set(base)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert hashes == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in dream.glob("*.safetensors")}


def test_names_of_the_published_class_are_translated(llada_folder: Path, tmp_path: Path) -> None:
    config = llada_config()
    base = llada_weights(config)
    pairs = products(["model.transformer.blocks.1.q_proj", "model.transformer.blocks.0.ff_out"], base)
    tokens = torch.tensor([8, 2, 11, 2])
    fields = {
        "alpha_pattern": {"ff_out": 4},
        "rank_pattern": {"ff_out": 2},
        "auto_mapping": {"base_model_class": "LLaDAModelLM"},
    }
    adapter = save_adapter(tmp_path / "adapter", pairs, **fields)
    merged = base | {
        f"{name}.weight": base[f"{name}.weight"] + (2 if name.endswith("ff_out") else 3) * b @ a
        for name, (a, b) in pairs.items()
    }
    found = logits_of(make_settings("llada", llada_folder, adapter=str(adapter)), tokens)
    torch.testing.assert_close(found, llada_logits(tokens, merged, config), atol=1e-5, rtol=1e-5)


def test_a_causal_model_and_a_tied_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=True, eos_token_id=256,
    )  # fmt: skip
    plain: Any = LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path / "llama")
    save_byte_tokenizer(
        tmp_path / "llama", QWEN_SPECIAL, None, eos_token="<|endoftext|>", tokenizer_class="Qwen2Tokenizer"
    )
    base = dict(plain.state_dict())
    pairs = products(["model.layers.1.self_attn.o_proj"], base)
    settings = make_settings(
        "causal", tmp_path / "llama", chat_template=False, adapter=str(save_adapter(tmp_path / "adapter", pairs))
    )
    settings.check()
    for name, (a, b) in pairs.items():
        plain.get_submodule(name).weight.data += 3 * b @ a
    tokens = torch.tensor([[5, 9, 77, 40]])
    with torch.inference_mode():
        torch.testing.assert_close(settings.load().model(tokens).logits, plain(tokens).logits, atol=1e-5, rtol=1e-5)
    save_adapter(tmp_path / "adapter", products(["lm_head"], base))
    for look in (settings.check, settings.load):
        with pytest.raises(UsageError, match="it changes lm_head, whose weights are the embeddings' too"):
            look()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "is not a LoRA adapter: adapter_config.json has peft_type=IA3"),
    "DoRA": ({"use_dora": True}, "is not supported: adapter_config.json has use_dora=True"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, r"has modules_to_save=\['lm_head'\]"),
    "a module to import": ({"megatron_config": {"a": 1}}, "has megatron_config="),
    "changed base": ({"init_lora_weights": "pissa"}, "has init_lora_weights=pissa"),
    "another class": (
        {"auto_mapping": {"base_model_class": "LLaDAModelLM"}},
        "was made for LLaDAModelLM, and the model is DreamModel",
    ),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED)
def test_an_adapter_that_cannot_be_merged_is_refused(
    dream: Path, tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    adapter = save_adapter(tmp_path / "adapter", products(CHANGED, weights()), **fields)
    with pytest.raises(UsageError, match=sentence):
        make_settings("dream", dream, adapter=str(adapter)).prepare()


def test_modules_and_shapes_must_be_the_models(dream: Path, tmp_path: Path) -> None:
    base = weights()
    missing = {"model.layers.7.self_attn.q_proj": products(CHANGED[:1], base)[CHANGED[0]]}
    wrong = {CHANGED[0]: (torch.zeros(2, 31), torch.zeros(32, 2))}
    other = {"model.norm": (torch.zeros(2, 32), torch.zeros(32, 2))}
    for pairs, sentence in (
        (missing, "does not fit Qwen2ForCausalLM: it changes model.layers.7.self_attn.q_proj, which is not a linear"),
        (
            wrong,
            r"its weights for model.layers.0.self_attn.q_proj are \[32, 2\] and \[2, 31\], and the layer is \[32, 32\]",
        ),
        (other, "it changes model.norm, which is not a linear layer"),
    ):
        settings = make_settings("dream", dream, adapter=str(save_adapter(tmp_path / "adapter", pairs)))
        for look in (settings.check, settings.load):
            with pytest.raises(UsageError, match=sentence):
                look()


def test_only_safetensors_are_read(dream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_adapter(tmp_path / "adapter", products(CHANGED, weights()))
    settings = make_settings("dream", dream, adapter=str(adapter))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"has no adapter_model.safetensors that can be read"):
        settings.prepare()
    with pytest.raises(UsageError, match="model.adapter=/nowhere does not exist"):
        make_settings("dream", dream, adapter="/nowhere").prepare()
    monkeypatch.setattr("rws_cli.models.adapter.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs peft: pip install 'rws\[adapter\]'"):
        settings.prepare()


@pytest.mark.parametrize(
    "more", ["model=masked_lm", "model.quantization=8bit", "runtime=tensor_parallel"], ids=lambda text: text
)
def test_what_an_adapter_does_not_work_with(more: str) -> None:
    named = {"model=masked_lm": "model.kind=masked_lm", "runtime=tensor_parallel": "runtime.backend=tensor_parallel"}
    with pytest.raises(UsageError, match=f"model.adapter does not work with {named.get(more, more)}"):
        compose("model.path=x/y", "model.adapter=a/b", more)


def test_a_run_records_its_adapter_and_resumes_with_no_other(rws, llada_folder: Path, tmp_path: Path) -> None:
    base = llada_weights(llada_config())
    names = ["model.transformer.blocks.1.q_proj"]
    adapter = save_adapter(tmp_path / "adapter", products(names, base))
    settings = [*small_run(llada_folder), "reward=none", "sampler=confidence", "benchmark.limit=1"]
    for more in ([f"model.adapter={adapter}"], []):
        result = rws("run", *settings, *more)
        assert result.exit_code == 0, result.output
    run, plain = sorted((tmp_path / "outputs" / "sudoku" / "small-confidence").glob("v*"))
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (run, plain)]
    source = manifests[0]["sources"]["model.adapter"]
    assert source["weights"]["adapter_model.safetensors"]["bytes"] > 0
    assert "model.adapter" not in manifests[1]["sources"]
    assert manifests[0]["config_hash"] != manifests[1]["config_hash"]
    (run / "manifest.json").write_text(json.dumps(manifests[0] | {"status": "interrupted"}))
    save_adapter(adapter, products(names, base), lora_alpha=7)
    result = rws("run", "--resume", str(run))
    assert result.exit_code == 2, result.output
    assert "the model.adapter changed since it was started" in " ".join(result.output.split())


def test_statistics_of_one_adapter_are_not_those_of_another(llada_folder: Path, tmp_path: Path) -> None:
    from rws_cli.runs.calibrations import facts_of

    base, facts = llada_weights(llada_config()), []
    for seed in (0, 1):
        adapter = save_adapter(tmp_path / str(seed), products(["model.transformer.blocks.1.q_proj"], base, seed=seed))
        config = compose(*small_run(llada_folder), f"model.adapter={adapter}")
        prepared = prepare(config)
        facts.append(facts_of(config, prepared.benchmark, prepared.examples, config.reward)["model"]["adapter"])
    assert facts[0] != facts[1]
