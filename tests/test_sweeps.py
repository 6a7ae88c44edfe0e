"""Sweeps that were broken off go on; sweeps by launchers come to the same."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from support import LIMIT, samples_of


def jobs(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/manifest.json"))


def status(run: Path) -> str:
    return json.loads((run / "manifest.json").read_text())["status"]


def test_a_sweep_goes_on_with_what_is_missing(rws, small: list[str], tmp_path: Path) -> None:
    command = ["run", "-m", *small, "sampler=confidence,random,rws"]
    assert rws(*command).exit_code == 0
    sweep = tmp_path / "outputs" / "multirun" / "v001"
    before = {job.name: samples_of(job) for job in jobs(sweep)}
    first_written = (sweep / "0" / "samples.jsonl").stat().st_mtime_ns

    manifest = json.loads((sweep / "1" / "manifest.json").read_text())  # killed in job 1, before job 2
    (sweep / "1" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    lines = (sweep / "1" / "samples.jsonl").read_text().splitlines(keepends=True)
    (sweep / "1" / "samples.jsonl").write_text("".join(lines[:2]))
    (sweep / "1" / "metrics.json").unlink()
    shutil.rmtree(sweep / "2")

    result = rws("run", "--resume", str(sweep.parent / "latest"))
    assert result.exit_code == 0, result.output
    assert "outputs/multirun/v001/0 is already finished" in result.output
    assert [status(job) for job in jobs(sweep)] == ["finished"] * 3
    assert {job.name: samples_of(job) for job in jobs(sweep)} == before
    assert (sweep / "0" / "samples.jsonl").stat().st_mtime_ns == first_written
    assert len(json.loads((sweep / "1" / "manifest.json").read_text())["resumed"]) == 1
    assert not (tmp_path / "outputs" / "multirun" / "v002").exists()
    assert "paired; differences to the first line" in result.output


def test_a_job_that_fails_is_in_the_table(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", "-m", *small, "sampler.guidance.form=linear,identity", "sampler.guidance.normalize=zscore,none")
    assert result.exit_code == 1, result.output
    with (tmp_path / "outputs" / "multirun" / "v001" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows].count("failed") == 1
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert "invert the logits" in failed["error"]
    assert failed["accuracy"] == ""


def test_sweep_csv_has_a_column_for_each_swept_key(rws, small: list[str], tmp_path: Path) -> None:
    """What is the same in all jobs has none; numbers are numbers, without parsing `overrides`."""
    swept = ["sampler.guidance.strength=0.5,2", "reward=verifier,constant", "runtime.batch_size=4"]
    result = rws("run", "-m", *small, *swept)
    assert result.exit_code == 0, result.output
    sweep = tmp_path / "outputs" / "multirun" / "v001"
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((float(row["sampler.guidance.strength"]), row["reward.name"]) for row in rows) == [
        (0.5, "constant"), (0.5, "verifier"), (2.0, "constant"), (2.0, "verifier"),
    ]  # fmt: skip
    assert not {"runtime.batch_size", "benchmark.limit", "model.path", "mean_reward"} & rows[0].keys()
    for row in rows:
        metrics = json.loads((sweep / row["job"] / "metrics.json").read_text())
        config = json.loads((sweep / row["job"] / "manifest.json").read_text())["config"]
        assert float(row["sampler.guidance.strength"]) == config["sampler"]["guidance"]["strength"]
        assert float(row["reward"]) == metrics["reward"]
        assert float(row["reversals"]) == metrics["guidance"]["reversals"]
        assert "sampler.guidance.strength=" in row["overrides"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm_local", "parallel"])
def test_launchers_come_to_the_same(rws, small: list[str], tmp_path: Path, launcher: str) -> None:
    """Slurm's launcher on this machine, and joblib's: jobs in other processes, in one folder."""
    command = ["run", "-m", *small, "sampler=confidence,random"]
    assert rws(*command, "output=here").exit_code == 0
    result = rws(*command, f"hydra/launcher={launcher}", "output=there")
    assert result.exit_code == 0, result.output
    here, there = (tmp_path / at / "multirun" / "v001" for at in ("here", "there"))
    assert [samples_of(job) for job in jobs(there)] == [samples_of(job) for job in jobs(here)]
    assert len(samples_of(jobs(there)[0])) == LIMIT
    assert (there / "sweep.csv").exists()
    again = rws("run", "--resume", str(there))
    assert again.exit_code == 0, again.output


def test_slurm_is_configured(rws) -> None:
    printed = rws("run", "--cfg", "hydra", "hydra/launcher=slurm").output
    for setting in ("gpus_per_node: 1", "array_parallelism: 16", "mem_gb: 64"):
        assert setting in printed
