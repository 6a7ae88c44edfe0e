"""A2D's file format (Qwen3, Qwen2 and Llama under names of their own) against an independent forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from block_models import blocks_of
from decoder_files import A2D, QWEN_SPECIAL, QWEN_TEMPLATE, a2d_weights, save_a2d, save_byte_tokenizer
from reference import decoder_logits
from support import make_sampler, make_settings, samples_of

from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.errors import UsageError
from rws_cli.models.base import Denoiser
from rws_cli.models.topology import block_numbers

HEADS = {
    "tied, not stored": {},
    "tied, stored too": {"head": True},
    "its own": {"tie_word_embeddings": False},
}


def expected(base: str, ids: torch.Tensor, blocks: list[int] | None = None, **saved: Any) -> torch.Tensor:
    """Logits in double precision."""
    weights = {name: weight.double() for name, weight in a2d_weights(base, **saved).items()}
    saved.pop("head", None)
    return decoder_logits(ids, weights, A2D[base] | saved, blocks).float()


def close(logits: torch.Tensor, others: torch.Tensor) -> None:
    torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_a2d(tmp_path_factory.mktemp("a2d"))


@pytest.mark.parametrize("base", A2D)
@pytest.mark.parametrize("head", HEADS)
def test_logits_equal_an_independent_forward_pass(tmp_path: Path, base: str, head: str) -> None:
    saved = HEADS[head]
    settings = make_settings("a2d", save_a2d(tmp_path, base, **saved))
    settings.check()
    denoiser = settings.load()
    tokens = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(2))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        logits = denoiser.logits(tokens, everywhere, everywhere).view(2, 11, -1)
    for row in range(2):
        close(logits[row], expected(base, tokens[row], **saved))


@pytest.mark.parametrize("base", A2D)
@pytest.mark.parametrize("size", [None, 4])
def test_padded_rows_have_the_logits_that_they_have_alone(tmp_path: Path, base: str, size: int | None) -> None:
    """Prompts of 3 and 6 tokens, completions of 6; blocks are counted from the completion's first token."""
    denoiser = make_settings("a2d", save_a2d(tmp_path, base), block_size=size).load()
    short, long = torch.arange(40, 49), torch.arange(90, 102)
    tokens, attention = torch.full((2, 12), 258), torch.ones(2, 12, dtype=torch.bool)
    tokens[0, 3:], tokens[1] = short, long
    attention[0, :3] = False
    block_BL = block_numbers(denoiser.topology, attention, 6) if size else None
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, attention, block_BL=block_BL)
    alone = [
        expected(base, ids, blocks_of(len(ids) - 6, len(ids), size, "completion") if size else None)
        for ids in (short, long)
    ]
    close(logits, torch.cat(alone))


def completions(denoiser: Denoiser, cached: bool) -> list[Completion]:
    prompts = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13]]
    rows = [prompt_of(ids, 0, str(n)) for n, ids in enumerate(prompts)]
    sampler = make_sampler(8, block_length=4)
    decoder = Decoder(denoiser, rows, sampler, rows=3, cache=PrefixCache(denoiser, 3) if cached else None)
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


@pytest.mark.parametrize("base", A2D)
def test_the_cache_changes_nothing(tmp_path: Path, base: str) -> None:
    denoiser = make_settings("a2d", save_a2d(tmp_path, base), block_size=4).load()
    for one, other in zip(completions(denoiser, False), completions(denoiser, True), strict=True):
        assert (one.trace.position, one.trace.token, one.trace.step) == (
            other.trace.position,
            other.trace.token,
            other.trace.step,
        )
        close(torch.tensor(one.trace.confidence), torch.tensor(other.trace.confidence))
        assert one.cost.mdm_tokens > other.cost.mdm_tokens


def test_tokens_and_template_arguments_come_from_the_checkpoint(folder: Path) -> None:
    plain = make_settings("a2d", folder).prepare()
    assert (plain.mask_id, plain.eos_ids, plain.pad_id, plain.warning) == (259, (258, 256), 256, None)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert plain.tokenizer.decode(plain.encode("Hi")) == prompt
    quick = make_settings("a2d", folder, chat_template_arguments={"enable_thinking": False}).prepare()
    assert quick.tokenizer.decode(quick.encode("Hi")) == prompt + "<think>\n\n</think>\n\n"
    assert make_settings("a2d", folder, mask_token_id=260).prepare().mask_id == 260


def test_a_tokenizer_that_names_no_mask_is_a_sentence(tmp_path: Path) -> None:
    folder = save_a2d(tmp_path)
    save_byte_tokenizer(folder, QWEN_SPECIAL, QWEN_TEMPLATE, eos_token="<|im_end|>")
    assert make_settings("a2d", folder).prepare().mask_id == 259  # by the token's name
    save_byte_tokenizer(folder, [*QWEN_SPECIAL[:3], "<|other|>"], QWEN_TEMPLATE, eos_token="<|im_end|>")
    with pytest.raises(UsageError, match="names no mask token, .*: set model.mask_token_id"):
        make_settings("a2d", folder).prepare()
    assert make_settings("a2d", folder, mask_token_id=259).prepare().mask_id == 259


@pytest.mark.parametrize(("base", "name"), [("qwen3", "Qwen3-0.6B"), ("qwen2", "Qwen2.5-Coder-0.5B-Instruct")])
def test_presets(base: str, name: str, tmp_path: Path) -> None:
    stem = name.removesuffix("-Instruct").replace("-", "_").replace(".", "_").lower()
    for kind, size in (("mdlm", None), ("bd3lm", 32)):
        settings = [
            f"model={stem}_{kind}",
            "benchmark.limit=1",
            "sampler=confidence",
            "reward=none",
            "sampler.gen_length=64",
        ]
        config = compose(*settings)
        assert config.model.path == f"dllm-hub/{name}-diffusion-{kind}-v0.1"
        assert config.model.block_size == size
        assert config.sampler.block_length == (size or 64)
        assert config.runtime.cache == ("prefix" if size else "none")
        assert config.model.chat_template_arguments == ({"enable_thinking": False} if base == "qwen3" else {})
        path = save_a2d(tmp_path / kind, base)
        assert compose(*settings, f"model.path={path}").model.prepare().topology.block_size == size


def test_shadows_need_full_attention() -> None:
    assert compose("model=qwen3_0_6b_mdlm", "sampler=wino").sampler.schedule.shadow
    with pytest.raises(UsageError, match="whose tokens attend only to their own block and earlier ones"):
        compose("model=qwen3_0_6b_bd3lm", "sampler=wino")


def test_a_run_of_blocks_resumes_to_the_same_samples(rws, tmp_path: Path) -> None:
    """Half of a run's samples are taken away; the other half is decoded in other company."""
    folder = save_a2d(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": "ab " * n}) + "\n" for n in (1, 4, 2, 7)))
    result = rws(
        "run", "model=qwen3_0_6b_bd3lm", f"model.path={folder}", "model.block_size=4", "sampler=confidence", "reward=none",
        "benchmark=instructions", "benchmark.path=prompts.jsonl", "benchmark.gen_length=10", "sampler.temperature=1",
        "runtime.batch_size=4", "model.dtype=float32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs/instructions/qwen3_0_6b_bd3lm-confidence/v001"
    assert json.loads((run / "manifest.json").read_text())["config"]["runtime"]["cache"] == "prefix"
    whole = samples_of(run)
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    (run / "samples.jsonl").write_text("".join(lines[::2]))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    resumed = rws("run", "--resume", str(run))
    assert resumed.exit_code == 0, resumed.output
    assert samples_of(run) == whole
