"""Measure decoding on one GPU (make bench-gpu): LLaDA-8B's and Qwen3-0.6B's full shapes in bfloat16 with random weights.

    python scripts/bench_gpu.py                     # begins no case after 8 minutes
    python scripts/bench_gpu.py --small --device cpu --dtype float32    # the same steps at a toy size

For each case the tables of bench_speed.py. Besides: the share of the rate of a large product that the passes reach, how
often a step waits for the GPU, the peak memory beside weights and its plan (rws doctor), and the time that all of GSM8K
would take with completions of 256 tokens, one token per step. Writes JSON after each case. It has only been tried at the
toy size, on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from speed import Bench, Case, Timing, all_logits, published, result, table
from speed_models import build_denoiser, build_reward

from rws_cli.runs.memory import memory_plan

GSM8K, COMPLETION = 1319, 256
"""Problems of the test set, and tokens of a completion."""
SIZES: dict[str, Any] = {"prompt": (64, 160), "gen": COMPLETION, "block": 32, "per_step": 4}
CASES = {
    "LLaDA-8B batch 8": Case("llada-8b", "qwen3-0.6b", 8, **SIZES),
    "LLaDA-8B batch 1": Case("llada-8b", "qwen3-0.6b", 1, **SIZES),
    "LLaDA-8B batch 8, reward of 8B": Case("llada-8b", "llada-8b", 8, **SIZES, variants=("confidence", "rws")),
    "Qwen3-0.6B batch 8": Case("qwen3-0.6b", "qwen3-0.6b", 8, **SIZES),
    "Qwen3-0.6B batch 1": Case("qwen3-0.6b", "qwen3-0.6b", 1, **SIZES),
}
SMALL = {
    "small batch 3": Case("small", "small-reward", 3, (4, 20), gen=16, block=8, per_step=2),
    "small batch 1": Case("small", "small-reward", 1, (20, 20), gen=16, block=8, per_step=2),
}


def waits(bench: Bench, name: str) -> float:
    """How often a step of a decoding waits for the GPU, as torch counts it, with what begins and ends a decoding."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("always")
            bench.decode(bench.config(name), bench.denoiser.forward, Path(folder), Timing())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught) / bench.case.steps


def memory(bench: Bench, name: str) -> dict[str, float]:
    """The bytes beside weights that decoding takes: planned, and on a GPU also measured."""
    config = bench.config(name)
    plan = memory_plan(config, bench.prepared(config, bench.denoiser), bench.denoiser.device, bench.case.batch)
    figures = {"planned": plan.peak - plan.weights}
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with tempfile.TemporaryDirectory() as folder:
            bench.decode(config, bench.denoiser.forward, Path(folder), Timing())
        figures["measured"] = float(torch.cuda.max_memory_allocated() - before)
    return figures


def gsm8k_minutes(case: Case, seconds: float) -> float:
    """The time for all of GSM8K with one token per step, from the seconds of a decoding of the case."""
    return math.ceil(GSM8K / case.batch) * COMPLETION * seconds / case.steps / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--small", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8, help="begin no case after so many")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_gpu.json"))
    options = parser.parse_args()
    device, dtype = options.device, options.dtype
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench-gpu needs a GPU, and torch finds none; try --small --device cpu.")
    started = time.monotonic()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    report: dict[str, Any] = {"torch": torch.__version__, "device": name, "dtype": dtype, "cases": {}}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    shape, denoiser = "", None
    for title, case in (SMALL if options.small else CASES).items():
        if time.monotonic() - started > 60 * options.minutes:
            print(f"{title}: left out, after {options.minutes:g} minutes")
            continue
        case = replace(case, rounds=options.rounds)
        if case.shape != shape:
            denoiser = None  # frees its memory before the next is built
            shape, denoiser = case.shape, build_denoiser(case.shape, device, dtype)
        figures = measure(case, denoiser, device, dtype)
        report["cases"][title] = figures
        print(table(title, figures), flush=True)
        print(notes(figures), flush=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; figures in {options.output}")


def measure(case: Case, denoiser: Any, device: str, dtype: str) -> dict[str, Any]:
    bench = Bench(case, denoiser, build_reward(case.reward, device, dtype), device, dtype)
    bench.time("rws", Timing())  # warm up
    figures = result(bench, bench.measure({"published": published(denoiser, all_logits(denoiser))}))
    for name, entry in figures["variants"].items():
        if name == "published":
            continue
        entry["gsm8k_minutes"] = gsm8k_minutes(case, statistics.median(entry["seconds"]))
        if name != "rws":  # passes of reward models are not planned
            entry["memory"] = memory(bench, name)
        if device == "cuda":
            entry["waits_per_step"] = waits(bench, name)
    return figures


def notes(figures: dict[str, Any]) -> str:
    lines = []
    for name, entry in figures["variants"].items():
        if name == "published":
            continue
        line = f"{name:18}passes at {entry['roofline']['matmul_share']:.0%} of the rate of a large product; "
        line += f"GSM8K in {entry['gsm8k_minutes']:,.1f} minutes"
        if "waits_per_step" in entry:
            line += f"; {entry['waits_per_step']:.1f} waits per step"
        if "memory" in entry:
            sizes = (f"{size / 1e6:,.0f} MB {what}" for what, size in entry["memory"].items())
            line += f"; beside weights {', '.join(sizes)}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
