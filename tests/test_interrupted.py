"""Runs that were killed or interrupted, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import samples_of


def start_and_stop(tmp_path: Path, options: list[str], lines: int, stop: signal.Signals) -> subprocess.Popen[str]:
    """Run in another process until `lines` examples are on disk, then signal it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rws_cli", "run", *options, "output=stopped"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "stopped" / "sudoku" / "small-rws" / "v001"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        file = run / "samples.jsonl"
        done = file.read_bytes().count(b"\n") if file.exists() else 0
        if (run / "run.log").exists() and done >= lines:
            break
        time.sleep(0.001)
    process.send_signal(stop)
    return process


@pytest.fixture
def slow(small: list[str]) -> list[str]:
    return [
        *small,
        "benchmark.limit=12",
        "runtime.batch_size=1",
        "sampler.tokens_per_step=1",
        "sampler.temperature=0.7",
    ]


@pytest.mark.parametrize("lines", [0, 3, 7])
def test_a_killed_run_resumes_to_the_same_samples(rws, slow: list[str], tmp_path: Path, lines: int) -> None:
    assert rws("run", *slow, "output=whole").exit_code == 0
    killed = tmp_path / "stopped" / "sudoku" / "small-rws" / "v001"
    process = start_and_stop(tmp_path, slow, lines, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with (killed / "samples.jsonl").open("a") as file:
        file.write('{"id": "sudoku-test-0-')  # and the disk caught it in the middle of a line
    shown = rws("show", str(killed))
    assert shown.exit_code == 0
    assert "running" in shown.output
    resumed = rws("run", "--resume", str(killed))
    assert resumed.exit_code == 0, resumed.output
    whole = tmp_path / "whole" / "sudoku" / "small-rws" / "v001"
    assert samples_of(killed) == samples_of(whole)
    assert pq.read_table(killed / "trace.parquet") == pq.read_table(whole / "trace.parquet")
    manifest = json.loads((killed / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert len(manifest["resumed"]) == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_records_its_batch_and_says_how_to_go_on(
    rws, slow: list[str], tmp_path: Path, stop: signal.Signals
) -> None:
    process = start_and_stop(tmp_path, slow, 2, stop)
    message = process.communicate()[1]
    assert process.returncode == 128 + stop
    assert "stopping when the batch in hand is done" in message
    assert "Traceback" not in message
    run = tmp_path / "stopped" / "sudoku" / "small-rws" / "v001"
    assert f"rws run --resume {run.relative_to(tmp_path)}" in message
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    stopped = samples_of(run)
    assert 2 <= len(stopped) < 12
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert len(samples_of(run)) == 12
    assert all(sample in samples_of(run) for sample in stopped)
