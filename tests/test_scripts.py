"""The scripts run from end to end at a toy size; checkpoints that they write load like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.rewards.base import Candidate

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str, *arguments: str | Path) -> None:
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}  # compiling takes longer than two steps
    subprocess.run([sys.executable, SCRIPTS / name, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_training_from_nothing_to_a_calibrated_reward(tmp_path: Path) -> None:
    model, reward = tmp_path / "model", tmp_path / "reward"
    size = ["--width", "32", "--hidden", "48", "--layers", "1", "--heads", "2", "--batch", "4"]
    script("train_mdm.py", "--out", model, "--stop", "2", *size)
    script("train_mdm.py", "--out", model, "--stop", "3", *size, "--resume")
    assert [json.loads(line)["step"] for line in (model / "curve.jsonl").read_text().splitlines()] == [2, 3]
    assert compose(f"model.path={model}").model.load().mask_id == 2

    script("train_reward.py", "--mdm", model, "--out", reward, "--practice", "1", "--steps", "2", "--batch", "4",
           "--arithmetic-batch", "4", "--test-problems", "4")  # fmt: skip
    classifier = compose(f"reward.path={reward}").reward.loaded(None, 0)
    assert classifier.normalization is not None
    assert classifier.normalization.min <= classifier.normalization.mean <= classifier.normalization.max
    example = Sudoku(limit=1).examples()[0]
    assert len(classifier.score([Candidate(example, example.reference, 1.0, -1)]).values) == 1


@pytest.mark.slow
def test_the_bench_compares_within_rounds_and_has_the_published_tokens(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    script("bench_speed.py", "--cases", "small", "--rounds", "2", "--output", out)
    report = json.loads(out.read_text())
    for figures in report["cases"].values():
        variants = figures["variants"]
        assert set(variants) == {"published", "confidence", "rws", "prefix", "dual"}
        assert variants["confidence"]["same_tokens"] == 1.0
        assert sum(figures["shares"].values()) == pytest.approx(1)
        for name, entry in variants.items():
            assert len(entry["seconds"]) == 2
            if name == "published":
                continue
            assert entry["over_alone"] == [a / b for a, b in zip(entry["seconds"], entry["alone"], strict=True)]
            assert entry["times_as_fast"] == [
                a / b for a, b in zip(variants["published"]["seconds"], entry["seconds"], strict=True)
            ]
            assert ("reward_alone" in entry) == (name == "rws")
        flops = {name: entry["roofline"]["flops_per_step"] for name, entry in variants.items() if "roofline" in entry}
        assert flops["dual"] < flops["prefix"] < flops["confidence"]
        # A step of confidence: 36 tokens through 2 layers, and logits of 2, 4, 6 or 8 open positions of a block. RWS needs
        # those of 2, 4, … or 16 masked positions.
        backbone = 36 * 2 * 2 * (4 * 32 * 32 + 3 * 32 * 48) + 36 * 36 * 4 * 2 * 32
        assert flops["confidence"] == backbone + 5 * 2 * 32 * 2000
        assert flops["rws"] == backbone + 9 * 2 * 32 * 2000


@pytest.mark.slow
def test_the_bench_of_a_gpu_runs_at_a_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    script("bench_gpu.py", "--small", "--device", "cpu", "--dtype", "float32", "--rounds", "1", "--output", out)
    report = json.loads(out.read_text())
    assert set(report["cases"]) == {"small batch 3", "small batch 1"}
    rws = report["cases"]["small batch 3"]["variants"]["rws"]
    assert rws["gsm8k_minutes"] == pytest.approx(440 * 256 * rws["seconds"][0] / 8 / 60)
