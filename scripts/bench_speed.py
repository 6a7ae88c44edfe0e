"""Measure how fast decoding is: against LLaDA's published procedure, against the model's passes alone, and against what the
hardware allows.

    python scripts/bench_speed.py                            # make bench: all cases but `small`
    python scripts/bench_speed.py --cases qwen3-0.6b
    python scripts/bench_speed.py --cases llada-8b --peers PEERS   # with the procedures of scripts/peers.py

Shapes are those of the published models; weights and prompts are random. LLaDA-8B's 32 layers use the weights of one, so
that they fit into memory: the arithmetic and the bytes read are those of the whole model. What is compared decodes the
same prompts, one after the other in every round (A B A B); ratios are taken within a round, and their median is printed.
"alone" are the forward passes of a decoding, repeated with the same inputs and nothing else. Writes JSON, and fails if
exact decoding in float32 gives other tokens than the published procedure.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peers import peers
from speed import Bench, Case, Timing, all_logits, published, result, table
from speed_models import build_denoiser, build_reward

CASES = {
    "llada-8b": Case("llada-8b", "qwen3-0.6b", 1, (32, 32), gen=24, block=12, per_step=4, one_layer=True),
    "qwen3-0.6b": Case("qwen3-0.6b", "scaled-reward", 1, (32, 32), gen=32, block=16, per_step=4, rounds=3),
    "qwen3-0.6b batch 8": Case(
        "qwen3-0.6b", "scaled-reward", 8, (32, 64), gen=16, block=16, per_step=4, variants=("confidence", "rws")
    ),
    "scaled batch 8": Case("scaled", "scaled-reward", 8, (32, 128), gen=32, block=32, per_step=8),
    "small": Case("small", "small-reward", 1, (20, 20), gen=16, block=8, per_step=2),
    "small batch 3": Case("small", "small-reward", 3, (4, 20), gen=16, block=8, per_step=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[name for name in CASES if "small" not in name], choices=CASES)
    parser.add_argument("--rounds", type=int, help="of every case")
    parser.add_argument("--peers", type=Path, help="a folder with checkouts of other projects (see scripts/peers.py)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_speed.json"))
    options = parser.parse_args()
    device, dtype = "cpu", "float32"
    report: dict[str, Any] = {
        "torch": torch.__version__, "machine": platform.platform(), "threads": torch.get_num_threads(), "dtype": dtype,
        "cases": {},
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.cases:
        case = replace(CASES[name], rounds=options.rounds or CASES[name].rounds)
        denoiser = build_denoiser(case.shape, device, dtype, case.one_layer)
        reward = build_reward(case.reward, device, dtype)
        bench = Bench(case, denoiser, reward, device, dtype)
        others = {"published": published(denoiser, all_logits(denoiser))}
        if options.peers:
            others |= peers(options.peers, denoiser, case.batch)
        if not case.one_layer:
            bench.time("confidence", Timing())  # warm up
        figures = result(bench, bench.measure(others))
        report["cases"][name] = figures
        print(table(name, figures), flush=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if figures["variants"]["confidence"]["same_tokens"] < 1:
            raise SystemExit("Exact decoding gave other tokens than the published procedure.")


if __name__ == "__main__":
    main()
