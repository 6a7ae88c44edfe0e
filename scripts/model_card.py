"""Measure the bundled model on test examples, and write the model card of both bundled checkpoints.

    python scripts/model_card.py           # about six minutes on two cores

Prints every number that it writes: figures.json next to the model, and README.md in assets/.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from scipy.stats import binomtest
from train_reward import BENCHMARKS, own_decodings

from rws_cli.config.catalog import ASSETS
from rws_cli.config.composing import compose

SETTINGS = {"sudoku": (1, 4, 8), "arithmetic": (1, 2, 4)}
"""Tokens per step."""
ORDERS = ("confidence", "random", "left_to_right")


def evaluate(examples: int) -> dict[str, dict[str, dict[str, float]]]:
    """Share of correct completions on the test split (seed 0): benchmark → order → tokens per step."""
    denoiser = compose("model.device=cpu").model.load()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for task, kind in BENCHMARKS.items():
        benchmark = kind(limit=examples)
        questions = benchmark.examples()
        figures[task] = {}
        for order in ORDERS:
            figures[task][order] = {}
            for per_step in SETTINGS[task]:
                started = time.monotonic()
                texts, _ = own_decodings(denoiser, task, questions, order, per_step, seed=0, watched=False)
                right = sum(benchmark.grade(e, t).correct for e, t in zip(questions, texts, strict=True))
                figures[task][order][str(per_step)] = right / examples
                low, high = binomtest(right, examples).proportion_ci(method="wilson")
                print(
                    f"{task} {order} {per_step} per step: {right / examples:.1%} of {examples} "
                    f"[{low:.1%}, {high:.1%}], {time.monotonic() - started:.0f} s",
                    flush=True,
                )
    return figures


def card(figures: dict[str, dict[str, dict[str, float]]], examples: int) -> str:
    """The text of the model card."""
    mdm_curve = [
        json.loads(line) for line in (ASSETS / "tiny-mdm" / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    reward = json.loads((ASSETS / "tiny-reward" / "figures.json").read_text(encoding="utf-8"))
    statistics = json.loads((ASSETS / "tiny-reward" / "normalization.json").read_text(encoding="utf-8"))
    size = {name: (ASSETS / name / "model.safetensors").stat().st_size / 2**20 for name in ("tiny-mdm", "tiny-reward")}
    weights = sum(p.numel() for p in compose("model.device=cpu").model.load().model.parameters())
    last = mdm_curve[-1]
    lines = [
        "# Bundled models",
        "",
        "Made by `make models`. The scripts named below printed every number here. Weights are stored in bfloat16.",
        "",
        f"## tiny-mdm: {weights:,} weights, {size['tiny-mdm']:.1f} MiB",
        "",
        "A masked diffusion model in LLaDA's checkpoint format (six layers of width 192, six heads, rotary base 100), "
        f"trained from scratch by `scripts/train_mdm.py` on generated problems of both benchmarks: {last['step']:,} steps, "
        f"{last['seconds']:,.0f} s. No test problem occurs in training: sudokus are split by a hash of the solution "
        "grid up to renaming digits, word problems by a hash of their chain of numbers and operations. "
        "tiny-mdm/curve.jsonl has the training curve (mean cross-entropy of hidden tokens over the steps since the previous line).",
        "",
        f"Accuracy on {examples} test examples (`scripts/model_card.py`), T = 0, one block:",
        "",
    ]
    for task, by_order in figures.items():
        lines += [
            f"| {task} | " + " | ".join(f"{n} per step" for n in SETTINGS[task]) + " |",
            "|---" * (1 + len(SETTINGS[task])) + "|",
            *(f"| {order} | " + " | ".join(f"{v:.1%}" for v in row.values()) + " |" for order, row in by_order.items()),
            "",
        ]
    lines += [
        f"## tiny-reward: {reward['parameters']:,} weights, {size['tiny-reward']:.1f} MiB",
        "",
        "A reward model in AutoModelForSequenceClassification format (LlamaForSequenceClassification, one label, "
        "`is_causal` false). It starts from tiny-mdm and was trained by `scripts/train_reward.py` on corrupted references and on "
        "tiny-mdm's mistakes, to rank completions by the share that is correct. Training and evaluation took "
        f"{reward['training_seconds']:,.0f} s. On {reward['problems_per_benchmark']} test problems of each benchmark:",
        "",
        "| | pairs of tiny-mdm's completions | ordered correctly | intermediate sequences | Spearman with share correct |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {reward[name]['pairs']:,} | {reward[name]['pairwise_accuracy']:.1%} "
            f"| {reward[name]['intermediate_sequences']:,} | {reward[name]['spearman']:.2f} |"
            for name in (*BENCHMARKS, "together")
        ),
        "",
        f"Normalization statistics (tiny-reward/normalization.json): mean {statistics['mean']:.2f}, deviation "
        f"{statistics['std']:.2f}, from {statistics['min']:.2f} to {statistics['max']:.2f}, n = {statistics['n']:,}. "
        "They come from tiny-mdm on 200 training problems of each benchmark, with confidence and random order, one token per step, "
        "and each mask replaced by its most likely token; every step counts once.",
        "",
        "Limitations: both models know only these two tasks and their words. They are for demonstrations and tests.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500)
    args = parser.parse_args()
    figures = evaluate(args.examples)
    (ASSETS / "tiny-mdm" / "figures.json").write_text(
        json.dumps({"examples": args.examples, "torch": torch.__version__, "share_right": figures}, indent=2) + "\n",
        encoding="utf-8",
    )
    text = card(figures, args.examples)
    Path(ASSETS / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
