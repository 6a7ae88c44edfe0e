"""Measure the exact cache of models that attend block by block, against passing prompt and blocks up to the open one.

    python scripts/bench_blocks.py                                   # make bench-blocks: Qwen3-0.6B with blocks of 32
    python scripts/bench_blocks.py --shape sdar-1.7b
    python scripts/bench_blocks.py --shape small --dtype bfloat16 --full --prompts 32
    python scripts/bench_blocks.py --shape sdar-1.7b --gen 64 --speculate 4

Weights and prompts are random; shapes are those of the published models. Decodes 1 token per step, batch 1. Without the
cache, one pass in the middle of some blocks is timed, spread evenly over the completion; --full decodes all of it and
counts the tokens that differ. --speculate D compares decoding with runtime.speculate=D and without, both with the cache, in
turn. Random weights say nothing about how many drafts are right, so look at the seconds of a pass: drafts pay where a
pass serves more steps than `seconds of a pass, times plain`. Beside the times stands the floor: the time in which the weights can be read once.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import median
from typing import Any

import torch
from speed_models import bandwidth, build_denoiser, seconds_of

from rws_cli.config.composing import compose
from rws_cli.decoding.batch import Prompt
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.models.base import Denoiser

BLOCKS = {"qwen3-0.6b": "qwen3-0.6b-blocks", "sdar-1.7b": "sdar-1.7b", "small": "small-blocks"}


def decoder(denoiser: Denoiser, prompts: list[Prompt], gen_length: int, cached: bool, speculate: int = 0) -> Decoder:
    size = denoiser.topology.block_size
    sampler = compose("sampler=confidence", f"sampler.gen_length={gen_length}", f"sampler.block_length={size}").sampler
    cache = PrefixCache(denoiser, 1) if cached else None
    return Decoder(denoiser, prompts, sampler, rows=1, cache=cache, speculate=speculate)


def timed(
    denoiser: Denoiser, prompts: list[Prompt], gen_length: int, cached: bool, speculate: int = 0
) -> tuple[float, list[Completion]]:
    """Seconds for all completions, and the completions."""
    decoding = decoder(denoiser, prompts, gen_length, cached, speculate)
    completions: list[Completion] = []
    seconds = seconds_of(
        lambda: completions.extend(one for some in decoding.run() for one in some), denoiser.device.type
    )
    return seconds, completions


def paired(denoiser: Denoiser, prompt: Prompt, gen_length: int, samples: int) -> tuple[float, float, Completion]:
    """Seconds for a completion with the cache, mean seconds of a step without it, and the completion.

    Steps without it are timed between the others, in the middle of `samples` blocks, so that both see the same machine.
    """
    size = denoiser.topology.block_size or 1
    blocks = gen_length // size
    sampled = {(2 * n + 1) * blocks // (2 * samples) for n in range(samples)}
    decoding, with_cache, without = decoder(denoiser, [prompt], gen_length, cached=True), 0.0, []
    step, completions = 0, []
    while decoding.enter():
        with_cache += seconds_of(decoding.step, denoiser.device.type)
        completions += decoding.finished()
        step += 1
        block, place = divmod(step, size)
        if block in sampled and place == size // 2:
            ids = [*prompt.ids, *random.choices(range(2, 4000), k=block * size)]
            other = Prompt(ids, key=step, fixed=dict.fromkeys(range(place), 2))
            fresh = decoder(denoiser, [other], size, cached=False)
            fresh.enter()
            without.append(seconds_of(fresh.step, denoiser.device.type))
    return with_cache, sum(without) / len(without), completions[0]


def share_that_differs(some: list[Completion], others: list[Completion]) -> float:
    pairs = [pair for a, b in zip(some, others, strict=True) for pair in zip(a.tokens, b.tokens, strict=True)]
    return sum(a != b for a, b in pairs) / len(pairs)


def drafted(denoiser: Denoiser, prompts: list[Prompt], gen_length: int, depth: int, rounds: int = 3) -> dict[str, Any]:
    """Decoding with drafted steps beside decoding without, in turn; medians of the rounds."""
    seconds: dict[int, list[float]] = {0: [], depth: []}
    completions = {}
    for _ in range(rounds):
        for each in seconds:
            spent, completions[each] = timed(denoiser, prompts, gen_length, True, each)
            seconds[each].append(spent)
    plain, passes, rows = (
        sum(getattr(one.cost, name) for one in completions[each])
        for each, name in ((0, "mdm_passes"), (depth, "mdm_passes"), (depth, "mdm_rows"))
    )
    step, drafting = median(seconds[0]) / plain, median(seconds[depth]) / passes
    return {
        "canvases per pass": rows / passes,
        "steps per pass": plain / passes,
        "seconds of a plain step": step,
        "seconds of a pass": drafting,
        "seconds of a pass, times plain": drafting / step,
        "times as fast": median(seconds[0]) / median(seconds[depth]),
        "tokens that differ": share_that_differs(completions[0], completions[depth]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=BLOCKS, default="qwen3-0.6b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=1, help="how many, with --full")
    parser.add_argument("--gen", type=int, default=256, help="tokens of a completion")
    parser.add_argument("--blocks", type=int, default=8, help="blocks in which a step without the cache is timed")
    parser.add_argument(
        "--full", action="store_true", help="decode everything without the cache too, and compare tokens"
    )
    parser.add_argument("--speculate", type=int, default=0, help="compare with runtime.speculate at this depth")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_blocks.json"))
    options = parser.parse_args()
    random.seed(0)
    denoiser = build_denoiser(BLOCKS[options.shape], options.device, options.dtype)
    prompts = [Prompt(random.choices(range(2, 4000), k=options.prompt), key=n) for n in range(options.prompts)]
    timed(denoiser, prompts[:1], denoiser.topology.block_size or 1, True)  # warm up
    if options.speculate:
        row: dict[str, Any] = {"shape": options.shape, "dtype": options.dtype, "threads": torch.get_num_threads()}
        write(row | drafted(denoiser, prompts, options.gen, options.speculate), options.output)
        return
    if options.full:
        seconds, completions = timed(denoiser, prompts, options.gen, True)
        other_seconds, others = timed(denoiser, prompts, options.gen, False)
    else:
        seconds, step_seconds, completion = paired(denoiser, prompts[0], options.gen, options.blocks)
        completions = [completion]
    steps = sum(completion.cost.mdm_passes for completion in completions)
    weights = sum(p.numel() * p.element_size() for p in denoiser.model.parameters())
    row = {
        "shape": options.shape,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "seconds per completion": seconds / len(completions),
        "seconds per step": seconds / steps,
        "tokens passed per step": sum(completion.cost.mdm_tokens for completion in completions) / steps,
        "seconds to read the weights": weights / bandwidth(options.device),
    }
    if options.full:
        row["seconds per step without cache"] = other_seconds / steps
        row["tokens that differ"] = share_that_differs(completions, others)
    else:
        row["seconds per step without cache"] = step_seconds
    row["times as fast"] = row["seconds per step without cache"] / row["seconds per step"]
    write(row, options.output)


def write(row: dict[str, Any], output: Path) -> None:
    for name, value in row.items():
        print(f"{name:32} {value if isinstance(value, str | int) else f'{value:.4g}'}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
