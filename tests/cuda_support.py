"""What the tests of a GPU share: the bundled models on a device, traces and how they differ, and memory that is short."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from rws_cli.config.composing import compose
from rws_cli.decoding import rank
from rws_cli.decoding.prediction import ulp
from rws_cli.models.base import Denoiser
from rws_cli.runs.batch_decoder import BatchDecoder
from rws_cli.runs.prepared import Components, load, prepare


@cache
def loaded(device: str, reward: str, dtype: str = "float32") -> Components:
    """The bundled models; their devices."""
    config = compose(
        f"model.device={device}", f"model.dtype={dtype}", f"reward.device={reward}", "reward.dtype=float32"
    )
    return load(config, prepare(config))


def decoded(config: Any, components: Components, lines: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Example → its trace, with the final reward. lines: takes the lines for the user."""
    prepared, lines = prepare(config), [] if lines is None else lines
    decoder = BatchDecoder(config, prepared, replace(components, sampler=deepcopy(config.sampler)), lines.append)
    found = {}
    for outcome in decoder(prepared.examples):
        assert not outcome.failures
        for sample, trace in zip(outcome.samples, outcome.traces, strict=True):
            found[trace["id"]] = trace | {"final": [sample["reward"]]}
    assert found.keys() == {example.id for example in prepared.examples}
    return found


def steps_of(trace: dict[str, Any]) -> list[tuple[list[tuple[int, int]], bool]]:
    """What each step committed, as positions and tokens, and whether any of it was a near tie."""
    found: dict[int, tuple[list[tuple[int, int]], bool]] = {}
    for step, position, token, near in zip(*(trace[k] for k in ("step", "position", "token", "near_tie")), strict=True):
        commits, was_near = found.get(step, ([], False))
        found[step] = [*commits, (position, token)], was_near or near
    return [found[step] for step in sorted(found)]


def differing(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[int, bool]]:
    """Example → the first step that differs, and whether it was a near tie on either side."""
    assert found.keys() == expected.keys()
    first: dict[str, tuple[int, bool]] = {}
    for name in found:
        pairs = zip(steps_of(found[name]), steps_of(expected[name]), strict=False)
        for number, ((commits, near), (others, also_near)) in enumerate(pairs):
            if commits != others:
                first[name] = number, near or also_near
                break
        else:
            assert len(steps_of(found[name])) == len(steps_of(expected[name]))
    return first


def check_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-3) -> None:
    """The same steps, positions and tokens up to near ties, and the same confidences and rewards where they are the same."""
    different = differing(found, expected)
    unexplained = {name: step for name, (step, near) in different.items() if not near}
    assert not unexplained, f"examples and steps that differ without a near tie: {unexplained}; near ties: {different}"
    assert len(different) <= len(found) // 8, f"too many examples differ, by near ties: {different}"
    for name in found.keys() - different.keys():
        for key in ("confidence", "reward", "scale", "final"):
            values, others = ([v for v in one[name][key] if v is not None] for one in (found, expected))
            assert values == pytest.approx(others, rel=tolerance, abs=tolerance), (name, key)


@cache
def rounding(device: str, dtype: str, reference_dtype: str) -> float:
    """How far the device's logits in a dtype are from the CPU's in another, at most, in units in the last place of `dtype`
    at each position's largest logit. Half of each completion is decoded."""
    config = compose("benchmark=arithmetic", "benchmark.limit=16")
    prepared, gen_length = prepare(config), config.sampler.gen_length
    generator = torch.Generator().manual_seed(0)
    rows = list(prepared.prompts.values())
    model = prepared.model
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width + gen_length), model.mask_id)
    attention = torch.zeros_like(tokens, dtype=torch.bool)
    for n, ids in enumerate(rows):
        tokens[n, width - len(ids) : width] = torch.tensor(ids)
        attention[n, width - len(ids) :] = True
    decoded = torch.rand(len(rows), gen_length, generator=generator) < 0.5
    tokens[:, width:][decoded] = torch.randint(6, 20, decoded.shape, generator=generator)[decoded]
    wanted = tokens == model.mask_id
    wanted[:, :width] = False
    logits = []
    for place, name in ((device, dtype), ("cpu", reference_dtype)):
        denoiser = loaded(place, "cpu", name).denoiser
        with torch.inference_mode():
            logits.append(denoiser.logits(*(one.to(place) for one in (tokens, attention, wanted))).cpu())
    assert all(one.isfinite().all() for one in logits)
    unit = ulp(logits[1].abs().amax(-1, keepdim=True), getattr(torch, dtype))
    return float(((logits[0] - logits[1]).abs() / unit).max())


def widen(monkeypatch: pytest.MonkeyPatch, units: float) -> None:
    """Let traces call near ties what `units` units in the last place, not one, could have decided otherwise."""
    monkeypatch.setattr(rank, "ulp", lambda value, dtype: max(units, 1.0) * ulp(value, dtype))


def on(denoiser: Denoiser, device: str) -> Denoiser:
    denoiser.model.to(device)  # in place: the forward pass holds it
    return replace(denoiser, device=torch.device(device))


@contextlib.contextmanager
def memory_left(components: Components, room: int, rows: int) -> Iterator[Components]:
    """Leave a GPU `room` bytes, to a few MiB. On the CPU passes of more than `rows` rows fail."""
    denoiser = components.denoiser
    if denoiser.device.type == "cpu":

        def forward(tokens_BL: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
            if len(tokens_BL) > rows:
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 12 bytes"
                )
            return denoiser.forward(tokens_BL, *rest, **more)

        yield replace(components, denoiser=replace(denoiser, forward=forward))
        return
    gc.collect()
    torch.cuda.empty_cache()
    allowed = (
        torch.cuda.memory_reserved() + room + (8 << 30)
    )  # so that little is filled; its exact size does not matter
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / torch.cuda.mem_get_info()[1]))
    piece = partial(torch.empty, dtype=torch.uint8, device="cuda")
    spare, ballast = [piece(room)] if room else [], []
    try:
        for size in (256 << 20, 16 << 20, 2 << 20, 1 << 20, 1 << 16, 1 << 12, 1 << 9):
            with contextlib.suppress(torch.OutOfMemoryError):
                while True:
                    ballast.append(piece(size))
        spare.clear()
        torch.cuda.empty_cache()
        yield components
    finally:
        ballast.clear()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak(config: Any, components: Components) -> tuple[dict[str, Any], int]:
    """Traces, and the most bytes that decoding held on the GPU."""
    if components.denoiser.device.type == "cpu":
        return decoded(config, components), 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return decoded(config, components), torch.cuda.max_memory_allocated() - before
