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


def test_the_bench_measures_everything_and_finds_the_published_tokens(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    size = [
        "--shape",
        "small",
        "--batch",
        "1",
        "3",
        "--gen",
        "16",
        "--block",
        "8",
        "--per-step",
        "2",
        "--prompt",
        "4",
        "20",
    ]
    script("bench_speed.py", *size, "--rounds", "2", "--out", out)
    report = json.loads(out.read_text())
    assert report["flops_per_second"] > 0
    for result in report["results"]:
        variants = result["variants"]
        assert set(variants) == {"published", "confidence", "rws", "rws_every_4", "prefix", "dual"}
        assert variants["confidence"]["same_tokens"] == 1.0
        for name, entry in variants.items():
            assert len(entry["seconds"]) == 2
            if name == "published":
                continue
            pairs = zip(variants[entry["against"]]["seconds"], entry["seconds"], strict=True)
            assert entry["ratios"] == [a / b for a, b in pairs]
            seconds = entry["split"]["seconds"]
            assert abs(sum(s for part, s in seconds.items() if part != "total") - seconds["total"]) < 1e-6
            assert min(seconds.values()) >= 0
            assert (seconds["reward"] > 0) == name.startswith("rws")
    floors = {name: e["split"]["floor"]["backbone"] for name, e in variants.items() if "split" in e}
    assert floors["dual"] <= floors["prefix"] < floors["confidence"]
