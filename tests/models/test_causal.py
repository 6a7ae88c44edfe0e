"""Autoregressive decoding of causal language models against transformers' own generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dream_files import ADDED, TEMPLATE, byte_letters
from support import make_sampler, make_settings
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.errors import UsageError

SIZES: dict[str, Any] = {
    "vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": None,
    "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=264, n_embd=32, n_layer=3, n_head=4, n_positions=128, initializer_range=0.3, bos_token_id=256, eos_token_id=256),
    ),
}  # fmt: skip
PROMPTS = [
    [65, 66, 67, 68, 69],
    [70, 71],
    [72],
    [73, 74, 75, 76, 77, 78, 79, 80, 81],
    [82] * 4,
    [83] * 3,
    [84, 85],
    [86] * 7,
]
LENGTH = 12


def save_tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(byte_letters())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(n): {"content": token, "special": True, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} for n, token in ADDED.items()}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"added_tokens_decoder": added, "chat_template": TEMPLATE, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
        )
    )  # fmt: skip
    Qwen2Tokenizer.from_pretrained(folder).save_pretrained(folder)  # tokenizer.json


def save(folder: Path, model_class: Any, config: Any) -> Path:
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp(request.param), *MODELS[request.param])


def completions(denoiser: Any, rows: int, cached: bool = True, **settings: Any) -> list[Completion]:
    sampler = make_sampler(LENGTH, block_length=1, order="left_to_right", **settings)
    cache = PrefixCache(denoiser, rows) if cached else None
    decoder = Decoder(
        denoiser, [prompt_of(ids, 0, str(n)) for n, ids in enumerate(PROMPTS)], sampler, rows=rows, cache=cache
    )
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


def test_greedy_tokens_are_those_of_generate(folder: Path) -> None:
    denoiser = make_settings("causal", folder).load()
    own = [
        denoiser.model.generate(
            torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False, pad_token_id=256, eos_token_id=[256, 258]
        )[0, len(ids) :].tolist()
        for ids in PROMPTS
    ]
    for rows, cached in ((1, True), (8, True), (3, False)):
        for one, expected in zip(completions(denoiser, rows, cached, eos="stop"), own, strict=True):
            assert one.tokens == expected + [256] * (LENGTH - len(expected))
            assert one.trace.position == list(range(len(expected)))


def test_a_pass_per_token_over_what_is_new(folder: Path) -> None:
    """The first pass reads the prompt, and each later one the token before: generate's cost with its cache."""
    denoiser = make_settings("causal", folder).load()
    for one, ids in zip(completions(denoiser, 3), PROMPTS, strict=True):
        assert (one.cost.mdm_passes, one.cost.mdm_tokens) == (LENGTH, len(ids) + LENGTH - 1)


def test_drawn_tokens_do_not_depend_on_the_batch(folder: Path) -> None:
    denoiser = make_settings("causal", folder).load()
    alone, together = (completions(denoiser, rows, temperature=1.0) for rows in (1, 8))
    assert [one.tokens for one in alone] == [one.tokens for one in together]
    assert [one.tokens for one in alone] != [one.tokens for one in completions(denoiser, 1)]


def test_the_mask_is_no_token_of_the_model(folder: Path) -> None:
    denoiser = make_settings("causal", folder).load()
    assert denoiser.mask_id == 264
    assert denoiser.eos_ids == (256, 258)
    assert denoiser.text([65, 66, 264, 258, 67]) == "bc"


def test_a_window_bounds_the_context(tmp_path: Path) -> None:
    """Within a sliding window attention is full; a longer prompt would need a mask of its own."""
    save(tmp_path, MistralForCausalLM, MistralConfig(**SIZES, sliding_window=16))
    assert make_settings("causal", tmp_path).prepare().arguments["config"].max_position_embeddings == 16


def test_models_without_attention_are_refused(tmp_path: Path) -> None:
    config = MambaConfig(
        vocab_size=264, hidden_size=16, num_hidden_layers=1, state_size=4, eos_token_id=256, pad_token_id=256
    )
    save(tmp_path, MambaForCausalLM, config)
    with pytest.raises(UsageError, match="mamba model, which model.kind=causal does not decode"):
        make_settings("causal", tmp_path).load()


def test_sampler_autoregressive_runs_on_the_command_line(rws: Any, folder: Path, tmp_path: Path) -> None:
    result = rws(
        "run", "model=causal", f"model.path={folder}", "sampler=autoregressive", "benchmark=prompt", "benchmark.text=Hello",
        "benchmark.gen_length=6", "reward=none", "model.dtype=float32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    sample = json.loads((tmp_path / "outputs/prompt/causal-autoregressive/v001/samples.jsonl").read_text())
    assert sample["order"]["god_tokens"] in (0.0, None)
    refused = rws(
        "run",
        "model=causal",
        f"model.path={folder}",
        "sampler.block_length=6",
        "benchmark=prompt",
        "benchmark.text=Hello",
        "benchmark.gen_length=6",
        "reward=none",
        "sampler=confidence",
    )
    assert refused.exit_code == 2
    assert "sampler.block_length=1" in refused.output
