"""Statistics belong to what was calibrated: they are found again for that alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import LIMIT, save_reward

from rws_cli.config.composing import compose
from rws_cli.models.checkpoint import content
from rws_cli.runs.calibrations import facts_of, mismatches


def facts(*overrides: str) -> dict:
    config = compose(*overrides)
    benchmark = config.benchmark
    reward = config.reward.loaded(benchmark, 0)
    assert reward
    return json.loads(json.dumps(facts_of(config, benchmark, benchmark.examples(), reward)))


def test_a_run_takes_the_statistics_of_its_own_reward(rws, small: list[str], tmp_path: Path) -> None:
    """Two reward models of one name: neither is normalized by the other's statistics, and both calibrations stay."""
    paths = {name: f"reward.path={save_reward(tmp_path / name, seed=n)}" for n, name in enumerate("ab", start=1)}
    options = [*small, "reward=classifier"]

    def statistics() -> dict:
        (manifest,) = [max(tmp_path.glob("outputs/sudoku/small-rws/v*")) / "manifest.json"]
        return json.loads(manifest.read_text())["sources"]["statistics"]

    assert rws("calibrate", *options, paths["a"]).exit_code == 0
    refused = rws("run", *options, paths["b"])
    assert refused.exit_code == 2
    assert f"measured with {paths['a']}, and this run has {paths['b']}" in refused.output
    assert (
        rws("run", *options, paths["b"], "sampler.guidance.normalize=none", "sampler.guidance.form=floored").exit_code
        == 0
    )
    assert rws("calibrate", *options, paths["b"]).exit_code == 0
    folder = tmp_path / "outputs/calibration/classifier/small-sudoku"
    for version, name in (("v001", "a"), ("v002", "b")):
        assert rws("run", *options, paths[name], f"benchmark.limit={LIMIT - 4}").exit_code == 0  # fewer examples
        stored = json.loads((folder / version / "normalization.json").read_text())
        assert statistics() == {key: stored[key] for key in ("mean", "std", "min", "max")}

    shutil.rmtree(folder / "v002")
    old = json.loads((folder / "v001" / "normalization.json").read_text())
    del old["calibrated"]
    (folder / "v001" / "normalization.json").write_text(json.dumps(old))
    refused = rws("run", *options, paths["a"])
    assert refused.exit_code == 2
    assert "make it anew with rws calibrate model.path=" in " ".join(refused.output.split())
    mine = f"reward.statistics={folder / 'v001' / 'normalization.json'}"
    assert rws("run", *options, paths["a"], mine).exit_code == 0  # what a configuration names is the user's


def test_what_belongs_to_statistics(tmp_path: Path) -> None:
    reward = save_reward(tmp_path / "reward")
    mine = ["reward=classifier", f"reward.path={reward}", "benchmark=arithmetic", "benchmark.limit=20"]
    there = facts(*mine)
    shutil.copytree(reward, tmp_path / "moved")
    for same in (
        ["benchmark.limit=5"], ["reward.batch_size=1"], ["reward.dtype=bfloat16"], ["model.dtype=bfloat16"],
        ["sampler=confidence"], ["seed=3"], ["benchmark.completions=2", "sampler.temperature=1"], [f"reward.path={tmp_path / 'moved'}"],
    ):  # fmt: skip
        assert mismatches(there, facts(*mine, *same)) == {}, same
    for other, keys in {
        "reward.template=x": ["reward.template"],
        "model.chat_template=false": ["model.chat_template"],
        "benchmark.seed=5": ["benchmark.seed"],
        f"reward.path={save_reward(tmp_path / 'other', seed=2)}": ["reward.path"],
    }.items():
        assert list(mismatches(there, facts(*mine, other))) == keys
    (reward / "chat_template.jinja").write_text("{{ messages }}")
    assert list(mismatches(there, facts(*mine))) == ["reward.content"]


def test_a_data_file_is_known_by_its_questions(tmp_path: Path) -> None:
    rows = [{"question": f"what is {n}?", "answer": f"#### {n}"} for n in range(9)]
    files = {}
    for name, kept in {"a": rows, "again": rows, "b": rows[::-1]}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in kept))
    there = facts("benchmark=gsm8k", f"benchmark.path={files['a']}", "benchmark.limit=4")
    assert mismatches(there, facts("benchmark=gsm8k", f"benchmark.path={files['again']}", "benchmark.limit=9")) == {}
    found = mismatches(there, facts("benchmark=gsm8k", f"benchmark.path={files['b']}"))
    assert found == {"benchmark.path": (str(files["a"]), str(files["b"]))}
    files["a"].write_text(files["b"].read_text())
    found = mismatches(there, facts("benchmark=gsm8k", f"benchmark.path={files['a']}"))
    assert list(found) == ["benchmark.content"]


def test_a_sum_belongs_to_the_statistics_of_its_parts(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.json").write_text(json.dumps({"mean": n, "std": 1, "min": 0, "max": 4}))
    one, two = (facts("reward=composite", f"reward.components.a.statistics={tmp_path / f'{n}.json'}") for n in (1, 2))
    assert mismatches(one, one) == {}
    assert list(mismatches(one, two)) == ["reward.statistics"]
    assert "reward.weights.a" in mismatches(one, facts("reward=composite", "reward.weights.a=2"))


def test_a_change_anywhere_in_weights_is_another_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last of a large file's weights, as where a head alone was trained."""
    monkeypatch.setattr("rws_cli.models.checkpoint.PIECE", 64)
    folder = save_reward(tmp_path)
    before = content(str(folder), None)
    weights = load_file(folder / "model.safetensors")
    assert (folder / "model.safetensors").stat().st_size > 64 * 64
    for name in ("score.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
        changed = weights | {name: torch.zeros_like(weights[name])}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        assert content(str(folder), None) != before
