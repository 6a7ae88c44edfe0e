"""The memory plan of rws doctor: its arithmetic, and the measured peak of processes that decode with large checkpoints."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from large_checkpoints import printed_by, save_qwen3

from rws_cli.config.composing import compose
from rws_cli.models.topology import Topology
from rws_cli.runs import memory
from rws_cli.runs.memory import MemoryPlan, memory_plan
from rws_cli.runs.prepared import prepare

# --- arithmetic -------------------------------------------------------------------------------------------------------

V, GEN, PROMPT, ROWS = 1000, 64, 36, 4
H, INNER, Q, K, LAYERS, L = 32, 128, 64, 16, 3, PROMPT + GEN
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
HALF = "model.dtype=bfloat16"


composed = cache(compose)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(memory, "stored_weights", lambda path, revision, key: (5_000, 10_000))
    native: Any = SimpleNamespace(
        hidden_size=H, intermediate_size=INNER, num_attention_heads=8, head_dim=8, num_key_value_heads=2,
        num_hidden_layers=LAYERS, tie_word_embeddings=True,
    )  # fmt: skip
    native.get_text_config = lambda: native

    def planned(
        *overrides: str, device: torch.device = CUDA, size: int | None = None, prompts: int = 9, ranks: int = 1
    ) -> MemoryPlan:
        config = composed(
            "model=llada", "reward=none", "sampler=confidence", f"sampler.gen_length={GEN}", "model.dtype=float32", *overrides
        )  # fmt: skip
        model = SimpleNamespace(vocabulary=V, topology=Topology(size), arguments={"config": native}, path="")
        ids = {str(n): [1] * (PROMPT if n == 2 else 5) for n in range(prompts)}
        prepared: Any = SimpleNamespace(model=model, prompts=ids, turn=dict.fromkeys(ids, 0))
        return memory_plan(config, prepared, device, ROWS, ranks)

    return planned


def test_activations_are_those_of_the_widest_layer(planned: Any) -> None:
    def per_token(*overrides: str, **options: Any) -> float:
        return planned(*overrides, **options).activations / (ROWS * L)

    rotated, mask, states = 4 * Q + 2 * K, (1 + 4) * L, 4 * H
    assert 4 * rotated + mask > 4 * 3 * INNER + L  # attention takes more than the MLP
    assert per_token() == 4 * (states + rotated) + mask
    assert per_token(HALF) == 2 * (states + rotated) + (1 + 2) * L
    assert per_token(HALF, device=CPU) == 2 * (states + 4 * INNER) + L  # the MLP, with sums in float32
    assert per_token("model.attention=eager") == 4 * (states + rotated) + mask + 8 * 8 * L
    assert per_token(ranks=2) == 4 * (states + rotated / 2) + mask


N = ROWS * GEN * V
"""Logits of all positions."""
LOGITS: dict[str, tuple[list[str], float]] = {
    "the likeliest tokens": ([], 4 * N + 8 * N),
    "a block of 16": (["sampler.block_length=16"], N + 2 * N),
    "all masks, for a reward": (["reward=tiny", "sampler=rws", "sampler.guidance.normalize=none"], 12 * N),
    "also a block's": (
        ["reward=tiny", "sampler=rws", "sampler.guidance.normalize=none", "sampler.block_length=16"], 4 * N + N + 8 * N,
    ),
    "drawn": (["sampler.temperature=0.5"], 4 * N + 6 * 8 * N),
    "all probabilities": (["sampler.order=entropy"], 4 * N + 4 * 8 * N),
    "nucleus": (["sampler.temperature=0.5", "sampler.top_p=0.9"], 4 * N + 9 * 8 * N),
    "without the prompt too": (["sampler.cfg_scale=1"], 16 * N),
    "shadows": (["sampler=wino", "sampler.block_length=64"], 32 * N),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), LOGITS.values(), ids=LOGITS)
def test_logits_and_their_copies(planned: Any, overrides: list[str], expected: float) -> None:
    assert planned(*overrides).logits == expected


def test_copies_are_of_chunks_and_half_precision_of_all(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHUNK_BYTES", {"cpu": 0, "cuda": 8000})
    assert planned().logits == 4 * N + 8000
    assert planned("sampler.temperature=1").logits == 4 * N + 6 * 8000
    assert planned(device=CPU).logits == 4 * N
    assert planned(HALF).logits == 6 * N
    assert planned("runtime.cache=prefix").logits == 8 * N  # of several windows, joined
    monkeypatch.setattr(memory, "CHUNK_BYTES", {"cpu": 0, "cuda": 0})
    particles = planned("sampler=best_of_n", "reward=tiny", "sampler.search.particles=8")
    assert (particles.rows, particles.logits) == (8, 2 * 8 * N)  # of two passes, joined


def test_the_parts_of_a_plan(planned: Any) -> None:
    plan = planned("runtime.cache=prefix")
    assert (plan.rows, plan.length, plan.weights) == (ROWS, L, 4 * 5000)
    assert plan.cache == 2 * LAYERS * K * 4 * ROWS * (L + 1)
    assert plan.peak == plan.weights + plan.cache + max(plan.activations, plan.logits)
    assert planned("runtime.cache=prefix", ranks=2).cache == plan.cache / 2
    assert planned("model.quantization=4bit").weights == 2500
    assert planned("model.dtype=auto").weights == 10_000  # as stored
    assert planned(prompts=3).rows == 3
    block = planned(device=CPU, size=4)  # its head is packed, and the embeddings have the same weights
    assert block.weights == 4 * 5000 + 4 * V * H
    assert planned("sampler.cfg_scale=1").activations == planned().activations + 4 * N


# --- measured ---------------------------------------------------------------------------------------------------------

MEASURE = """
import json, sys
from typer.testing import CliRunner
from large_checkpoints import Peaks
from rws_cli.cli import app

def run(*overrides):
    result = CliRunner().invoke(app, ["run", "reward=none", "sampler=confidence", *overrides])
    assert result.exit_code == 0, result.output

# A process is idle once it has decoded with the bundled model: libraries are imported and their code was read.
run("benchmark=arithmetic", "benchmark.limit=2", "model.dtype=float32", "sampler.tokens_per_step=8", "output=" + sys.argv[1])
peaks = Peaks()
run("output=" + sys.argv[1], *sys.argv[2:])
print(json.dumps(peaks.over_before()))
"""
WITHIN = 0.2
SDAR = {"architectures": ["SDARForCausalLM"], "model_type": "sdar"}
MODELS: dict[str, tuple[Any, list[str], str]] = {
    "float32": (
        lambda folder: save_qwen3(folder, 2, torch.float32, tied=True),
        ["model=masked_lm", "model.kind=a2d", "model.dtype=float32", "sampler.gen_length=64"],
        "all",  # weights are the pages of mapped files
    ),
    "bfloat16": (
        lambda folder: save_qwen3(folder, 12, torch.bfloat16, tied=True),
        ["model=masked_lm", "model.kind=a2d", "model.dtype=bfloat16", "sampler.gen_length=64"],
        "all",
    ),
    "block": (
        lambda folder: save_qwen3(folder, 2, torch.bfloat16, tied=True, **SDAR),
        ["model=sdar_1_7b", "model.dtype=float32", "sampler.gen_length=8"],
        "RssAnon",  # weights are rewritten, and the kernel may drop the pages of files
    ),
}  # fmt: skip
CASES = {
    "float32": ("float32", ["sampler.steps=2"]),
    "float32, prefix cache": ("float32", ["runtime.cache=prefix", "sampler.block_length=32", "sampler.steps=2"]),
    "float32, drawn": ("float32", ["sampler.temperature=0.5", "sampler.steps=1"]),
    "bfloat16": ("bfloat16", ["sampler.steps=1"]),
    "block, exact cache": ("block", ["sampler.tokens_per_step=4"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, (make, _, _) in MODELS.items():
        make(made[name])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_the_measured_peak_is_the_planned_one(folders: dict[str, Path], tmp_path: Path, case: str, rows: int) -> None:
    name, more = CASES[case]
    _, settings, measured_by = MODELS[name]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": "abcdefgh"[n] * (200 + n)}) + "\n" for n in range(rows)))
    overrides = [
        *settings, f"model.path={folders[name]}", "model.device=cpu", "model.chat_template=false", "model.mask_token_id=259",
        "benchmark=instructions", f"benchmark.path={prompts}", f"runtime.batch_size={rows}", *more,
    ]  # fmt: skip
    config = compose("reward=none", "sampler=confidence", *overrides)
    plan = memory_plan(config, prepare(config), CPU, rows)
    # By default, glibc keeps freed blocks of up to 32 MiB for itself. With a fixed threshold they go back to the system, so
    # that the peak is what is alive at a time.
    peaks = printed_by(MEASURE, str(tmp_path / "runs"), *overrides, MALLOC_MMAP_THRESHOLD_=str(1 << 17))
    measured = peaks[measured_by]
    print(
        f"{case}, {rows} rows: weights {plan.weights / 1e6:.0f}, cache {plan.cache / 1e6:.0f}, activations "
        f"{plan.activations / 1e6:.0f}, logits {plan.logits / 1e6:.0f}; planned {plan.peak / 1e6:.0f}, measured "
        f"{measured / 1e6:.0f} MB"
    )
    assert plan.weights > 500e6
    assert math.isclose(measured, plan.peak, rel_tol=WITHIN)
    if rows > 1:  # without the weights, too
        assert math.isclose(measured - plan.weights, plan.peak - plan.weights, rel_tol=WITHIN)
