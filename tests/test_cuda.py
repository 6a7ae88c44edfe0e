"""What a GPU decodes is what the CPU decodes; and what only a GPU can show: splitting, bits, memory that runs out, waits.

Each test also runs with the CPU in place of the GPU, so that its code is tried everywhere; there it compares the CPU with
itself. In float32 tokens may differ only from a step on that rounding could have decided otherwise: what a trace calls a near tie,
with the unit in the last place multiplied by 4 times how far apart the logits of the devices are (`rounding`), as the
difference of two logits moves by twice that, and that of two log-probabilities by twice as much again.
"""

from __future__ import annotations

import re
import statistics
import warnings
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import pytest
import torch
from block_models import block_denoiser
from cuda_support import check_same, decoded, differing, loaded, memory_left, on, peak, rounding, widen
from support import decode, make_sampler, new_canvas, part, samples_of

from rws_cli.config.composing import compose
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.errors import RunError, UsageError
from rws_cli.models import base
from rws_cli.models.base import Denoiser
from rws_cli.runs import prepared as preparing
from rws_cli.runs.batch_decoder import Attempt
from rws_cli.runs.prepared import load, prepare

TF32 = 1 << 13
"""How much coarser its products are, in units in the last place of float32: 10 bits of mantissa in place of 23."""

SUDOKU = ["sampler=confidence", "sampler.tokens_per_step=6"]
ARITHMETIC = ["benchmark=arithmetic", "sampler=confidence", "sampler.tokens_per_step=2"]
BLOCKS = [*ARITHMETIC, "sampler.block_length=5"]
TOKENS: dict[str, list[str]] = {
    "confidence": ARITHMETIC,
    "sudoku": SUDOKU,
    "sampled": [*ARITHMETIC, "sampler.temperature=0.7"],
    "rws": [*ARITHMETIC, "sampler=rws"],
    "rws, reward on the CPU": [*ARITHMETIC, "sampler=rws"],
    "smc": ["benchmark=arithmetic", "sampler=smc", "sampler.search.particles=2"],
    "fk": ["benchmark=arithmetic", "sampler=fk", "sampler.search.particles=2", "sampler.tokens_per_step=4"],
    "remdm": ["benchmark=arithmetic", "sampler=remdm_conf"],
    "prefix": [*BLOCKS, "runtime.cache=prefix"],
    "dual": [*BLOCKS, "runtime.cache=dual", "runtime.cache_refresh=3"],
}

ON_GPU = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.filterwarnings("default"),  # libraries warn about GPUs in ways that releases differ in
)


def each(name: str, values: Iterable[Any], quick: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrizes by values and devices; with the CPU the suite runs the quick ones, and `make test-slow` the others."""
    cpu = [pytest.param(one, "cpu", marks=[] if one in quick else pytest.mark.slow) for one in values]
    cases = [*cpu, *(pytest.param(one, "cuda", marks=ON_GPU) for one in values)]
    return pytest.mark.parametrize((name, "device"), cases, indirect=["device"])


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def many(device: str) -> int:
    """Examples to decode: enough to find a fault on a GPU, few where the CPU stands for it."""
    return 32 if device == "cuda" else 2


# --- float32 ------------------------------------------------------------------------------------------------------


def test_float32_is_not_rounded_to_tf32(device: str) -> None:
    """Loading and decoding leave torch's default, and products have the precision that it promises."""
    assert rounding(device, "float32", "float32") < TF32 / 16
    assert torch.get_float32_matmul_precision() == "highest"
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0)).to(device)
    exact = a.double() @ b.double()
    assert float((a @ b - exact).abs().max() / exact.abs().max()) < 1e-6


@each("name", TOKENS, quick=("rws, reward on the CPU", "dual"))
def test_tokens_positions_and_steps_are_those_of_the_cpu(
    device: str, name: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, rows entering as others leave."""
    widen(monkeypatch, 4 * rounding(device, "float32", "float32"))
    config = compose(*TOKENS[name], f"benchmark.limit={many}", f"runtime.batch_size={max(2, many // 4)}")
    reward = "cpu" if name.endswith("reward on the CPU") else device
    expected = decoded(config, loaded("cpu", "cpu"))
    check_same(decoded(config, loaded(device, reward)), expected)
    near = [near for trace in expected.values() for near in trace["near_tie"]]
    assert sum(near) <= len(near) / 50  # else little would be compared


@each("cached", (False, True), quick=(True,))
def test_a_block_model_has_the_tokens_of_the_cpu(
    device: str, many: int, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights, and the exact cache; also with two particles, whose rows are copied."""
    widen(monkeypatch, 4 * rounding(device, "float32", "float32"))
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(1, 30, (2 + n % 7,), generator=generator).tolist() for n in range(many)]
    for particles, settings in ((1, {}), (2, {"search": part("search", "smc", particles=2), "temperature": 1.0})):
        sampler = make_sampler(16, block_length=4, **settings)
        names = [f"{n} {k}" for n in range(many) for k in range(particles)]
        traces = []
        for place in (device, "cpu"):
            denoiser = on(block_denoiser(4), place)
            canvas = new_canvas([p for p in prompts for _ in range(particles)], names, 16, denoiser.mask_id)
            rows = max(2, many // 4) * particles
            keep = PrefixCache(denoiser, rows) if cached else None
            found = decode(denoiser, canvas, deepcopy(sampler), rows=rows, cache=keep)
            traces.append({str(n): asdict(one) | {"final": []} for n, one in enumerate(found)})
        check_same(*traces)


@each("backend", ("inductor",), quick=())
def test_a_compiled_model_has_the_tokens_of_the_cpu(
    device: str, backend: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA graphs; on the CPU the graph runs as it was traced."""
    widen(monkeypatch, 4 * rounding(device, "float32", "float32"))
    backend = "eager" if device == "cpu" else backend
    monkeypatch.setattr(preparing, "compiled", partial(preparing.compiled, backend=backend))
    torch._dynamo.reset()
    options = [*ARITHMETIC, "sampler.tokens_per_step=5", f"benchmark.limit={many // 2}", "model.dtype=float32"]
    config = compose(*options, f"model.device={device}", "runtime.compile=true", "reward=none")
    components = load(config, prepare(config))
    check_same(decoded(config, components), decoded(config, replace(loaded("cpu", "cpu"), reward=None)))


# --- bfloat16 -----------------------------------------------------------------------------------------------------


def test_bfloat16_is_as_precise_as_on_the_cpu(device: str) -> None:
    """Both are compared with the CPU's float32, from the same weights, which are stored in bfloat16."""
    assert rounding(device, "bfloat16", "float32") <= 2 * rounding("cpu", "bfloat16", "float32")


@each("name", ("sudoku", "confidence"), quick=("sudoku",))
def test_bfloat16_loses_no_more_than_on_the_cpu(
    device: str, name: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near ties are as frequent, within three standard errors of the difference by example, and 1 % of the tokens. No more
    examples, up to three standard errors, differ from the CPU's float32. At the first step that differs from the CPU's
    bfloat16, logits were mostly within 4 units in the last place (layers round too: logits are off by up to 14)."""
    config = compose(*TOKENS[name], f"benchmark.limit={2 * many}", "runtime.batch_size=16")
    ours, cpu, exact = (
        decoded(config, loaded(place, "cpu", dtype))
        for place, dtype in ((device, "bfloat16"), ("cpu", "bfloat16"), ("cpu", "float32"))
    )
    shares = [[statistics.mean(trace["near_tie"]) for trace in one.values()] for one in (ours, cpu)]
    more = [a - b for a, b in zip(*shares, strict=True)]
    rounded, also_rounded = len(differing(ours, exact)), len(differing(cpu, exact))
    widen(monkeypatch, 4)
    different = differing(decoded(config, loaded(device, "cpu", "bfloat16")), cpu)
    print(f"\nnear ties in bfloat16 ({device}, cpu): {[round(statistics.mean(one), 4) for one in shares]}")
    print(f"of {len(exact)} examples {rounded} and {also_rounded} differ from float32; from each other: {different}")
    assert abs(statistics.mean(more)) <= 3 * statistics.stdev(more) / len(more) ** 0.5 + 0.01
    assert 0 < statistics.mean(shares[0]) < 0.5
    assert rounded <= also_rounded + 3 * (2 * also_rounded * (1 - also_rounded / len(exact))) ** 0.5
    assert sum(near for _, near in different.values()) >= 0.75 * len(different)


# --- placing, bits ------------------------------------------------------------------------------------------------


def test_the_command_line_decodes_on_the_device(device: str, rws, tmp_path: Path) -> None:
    places = [] if device == "cuda" else ["model.device=cpu", "reward.device=cpu"]
    result = rws("run", *places, "benchmark.limit=2", "sampler.tokens_per_step=6")
    assert result.exit_code == 0, result.output
    assert len(samples_of(tmp_path / "outputs/sudoku/tiny-rws/v001")) == 2


def test_a_model_split_by_device_map_has_the_tokens_of_the_cpu(
    device: str, many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the weights fit on the GPU; the rest stay in the host's memory, and are moved to the GPU for each pass. For the
    CPU they stay on disk."""
    widen(monkeypatch, 4 * rounding(device, "float32", "float32"))
    whole = loaded("cpu", "cpu")
    size = sum(weight.numel() * weight.element_size() for weight in whole.denoiser.model.parameters())
    options = [*SUDOKU, "model.dtype=float32", "model.device_map=auto", f"model.device={device}", "reward.device=cpu"]
    config = compose(*options, f"benchmark.limit={many}")
    prepared = prepare(config)
    memory = {0: size // 2, "cpu": 4 * size} if device == "cuda" else {"cpu": size // 2}
    prepared.model.arguments.update(max_memory=memory, offload_folder=str(tmp_path))
    components = load(config, prepared)
    model = components.denoiser.model
    assert set(model.hf_device_map.values()) == ({0, "cpu"} if device == "cuda" else {"cpu", "disk"})
    assert {weight.device.type for weight in model.parameters()} == {device, "meta"}
    assert components.denoiser.device.type == device
    check_same(decoded(config, components), decoded(config, whole))


def test_device_map_alone_uses_the_device(device: str) -> None:
    config = compose("model.device_map=auto", "model.dtype=float32", f"model.device={device}")
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("auto takes the GPU")
    assert {weight.device.type for weight in config.model.load().model.parameters()} == {device}


@each("bits", ("8bit", "4bit"), quick=("4bit",))
def test_fewer_bits_run(device: str, many: int, bits: str) -> None:
    """Logits near those of exact weights, but not the same; what is decoded is finite and mostly solves."""
    pytest.importorskip("bitsandbytes")
    config = compose(
        *SUDOKU, f"model.quantization={bits}", f"model.device={device}", f"benchmark.limit={many}", "reward=none"
    )
    prepared = prepare(config)
    components = load(config, prepared)
    weight = components.denoiser.model.model.layers[0].mlp.up_proj.weight
    assert (weight.dtype, weight.device.type) == ({"8bit": torch.int8, "4bit": torch.uint8}[bits], device)
    tokens = torch.full((2, 24), components.denoiser.mask_id)
    tokens[:, :12] = torch.randint(6, 20, (2, 12), generator=torch.Generator().manual_seed(0))
    everything = torch.ones_like(tokens, dtype=torch.bool)
    logits = []
    for place, denoiser in ((device, components.denoiser), ("cpu", loaded("cpu", "cpu").denoiser)):
        with torch.inference_mode():
            logits.append(denoiser.logits(*(one.to(place) for one in (tokens, everything, everything))).cpu())
    assert torch.nn.functional.cosine_similarity(*logits, dim=-1).min() > 0.9
    assert not torch.equal(*logits)
    found = decoded(config, components)
    assert all(0 < p <= 1 for trace in found.values() for p in trace["confidence"])
    grades = []
    for example in prepared.examples:
        trace = found[example.id]
        ids = [token for _, token in sorted(zip(trace["position"], trace["token"], strict=True))]
        grades.append(config.benchmark.grade(example, components.denoiser.text(ids)).correct)
    assert statistics.mean(grades) > 0.5


def test_bits_that_the_device_does_not_run_are_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")

    def narrow(denoiser: Denoiser) -> None:
        raise RuntimeError(f"no kernel\nfor {denoiser.device.type}")

    monkeypatch.setattr(base, "check_attention", narrow)
    config = compose("model.quantization=8bit", f"model.device={device}")
    with pytest.raises(
        UsageError, match=rf"model\.quantization=8bit does not run on {device}(:0)?: no kernel for {device}"
    ):
        config.model.load()


# --- memory -------------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_rows_and_keeps_the_tokens(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU has half of what the whole batch takes."""
    widen(monkeypatch, 4 * rounding(device, "float32", "float32"))
    rows = 256 if device == "cuda" else 4
    whole = compose(*SUDOKU, f"benchmark.limit={rows}", f"runtime.batch_size={rows}", "reward=none")
    components = replace(loaded(device, "cpu"), reward=None)
    expected, taken = peak(whole, components)
    lines: list[str] = []
    with memory_left(components, taken // 2, rows // 2) as limited:
        found = decoded(whole, limited, lines)
    assert lines[0] == f"out of memory with {rows} rows in a forward pass: continuing with {rows // 2}"
    assert len(lines) <= 4  # an eighth fits well: a pass of a quarter takes half of what is there
    check_same(found, expected)


@each("sampler", ("confidence", "rws"), quick=("rws",))
def test_out_of_memory_with_one_row_is_one_sentence(device: str, sampler: str) -> None:
    config = compose(*SUDOKU, f"sampler={sampler}", "benchmark.limit=2", "runtime.batch_size=2")
    components, lines = loaded(device, device), []  # type: ignore[var-annotated]
    decoded(config, components)
    with (
        memory_left(components, 0, 0) as limited,
        pytest.raises(RunError, match="Out of memory with a single row: use a smaller"),
    ):
        decoded(config, limited, lines)
    assert lines == ["out of memory with 2 rows in a forward pass: continuing with 1"]
    decoded(config, components)  # what was held is free again


def test_memory_that_runs_out_before_the_first_step_halves_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch is put on the device."""
    tried, real = [], Attempt.__init__

    def init(self: Attempt, *arguments: Any) -> None:
        tried.append(arguments[-2])
        if arguments[-2] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        real(self, *arguments)

    monkeypatch.setattr(Attempt, "__init__", init)
    config = compose(*SUDOKU, "benchmark.limit=2", "runtime.batch_size=4", "reward=none")
    assert len(decoded(config, replace(loaded("cpu", "cpu"), reward=None))) == 2
    assert tried == [4, 2, 1]


# --- waits --------------------------------------------------------------------------------------------------------


@each("name", ("confidence", "rws", "rws, reward on the CPU", "smc", "prefix", "dual"), quick=("smc",))
def test_a_step_waits_seldom_for_the_device(device: str, name: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of test_waits.py, counted by torch."""
    most = 16 if name == "smc" else 8
    waits, real = [], Decoder.step

    def step(self: Decoder) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            real(self)
        waits.append(sum("synchronizing" in str(one.message) for one in caught))

    monkeypatch.setattr(Decoder, "step", step)
    config = compose(*TOKENS[name], f"benchmark.limit={many // 2}", f"runtime.batch_size={many // 2}")
    components = loaded(device, "cpu" if name.endswith("reward on the CPU") else device)
    decoded(config, components)  # the first use of a part may move constants
    waits.clear()
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
    try:
        decoded(config, components)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    print(f"waits per step, {name}: {waits}")
    assert max(waits) <= most
    assert (max(waits) > 0) == (device == "cuda")


# --- these tests ------------------------------------------------------------------------------------------


def test_a_difference_without_a_near_tie_is_a_failure() -> None:
    config = compose(*ARITHMETIC, "benchmark.limit=8")
    expected = decoded(config, loaded("cpu", "cpu"))
    name, found = next(iter(expected)), deepcopy(expected)
    trace = found[name]
    number = trace["step"].index(2)
    trace["token"][number] += 1
    for near, also in ((False, True), (True, False)):
        expected[name]["near_tie"][number], trace["near_tie"][number] = near, also
        assert differing(found, expected) == {name: (2, True)}
        check_same(found, expected)
    trace["near_tie"][number] = expected[name]["near_tie"][number] = False
    trace["near_tie"][0] = True  # a near tie at another step explains nothing
    with pytest.raises(AssertionError, match=rf"differ without a near tie: \{{'{name}': 2\}}"):
        check_same(found, expected)
    other = deepcopy(expected)
    other[name]["confidence"][0] += 0.01
    with pytest.raises(AssertionError, match="confidence"):
        check_same(other, expected)


def test_asking_for_gpu_tests_without_a_gpu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test-gpu` must not pass because all was skipped."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for expression in ("", "not slow", "slow"):
        conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=expression)))
    with pytest.raises(pytest.UsageError, match=re.escape(f"torch {torch.__version__} finds no GPU")):
        conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr="cuda")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr="cuda")))
