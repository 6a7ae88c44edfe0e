"""Run folders that commit 640fd19 wrote are read, compared and gone on with.

In tests/data/640fd19: a finished run of sampler=rws; the same run, killed in the middle of its third batch's lines; a
finished sweep of confidence and pc; the same sweep, killed in its second job. Their paths and machine were made neutral.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import samples_of

from rws_cli.runs.upgrade import read_manifest

DATA = Path(__file__).parent / "data" / "640fd19"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of them in the folder where commands are typed."""
    return Path(shutil.copytree(DATA, tmp_path, dirs_exist_ok=True))


def same_run(run: Path, other: Path) -> bool:
    """Whether two finished runs decoded the same tokens in the same order, and graded them alike."""
    old = {"answer": "completion", "mark": "grade"}
    keys, columns = ("id", "tokens", "completion", "grade", "order"), ["id", "step", "position", "token", "text"]
    samples = [
        [[{old.get(k, k): v for k, v in sample.items()}[key] for key in keys] for sample in samples_of(each)]
        for each in (run, other)
    ]
    traces = [pq.read_table(each / "trace.parquet", columns=columns) for each in (run, other)]
    return samples[0] == samples[1] and traces[0] == traces[1]


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


def test_they_are_shown(rws, old: Path) -> None:
    finished = rws("show", "finished")
    assert finished.exit_code == 0, finished.output
    assert "62.5%" in finished.output
    assert re.search(r"scale +│ 1\.323  \(temperature 0\.762\)", finished.output)
    killed = rws("show", "killed")
    assert killed.exit_code == 0, killed.output
    assert "running, 4 of 8 examples done" in killed.output
    replayed = rws("replay", "finished", "--plain")
    assert replayed.exit_code == 0, replayed.output
    assert "5 of 5 steps · 20 of 20 tokens" in replayed.output
    assert rws("report", "finished").output.strip() == "finished/report.html"


def test_an_old_run_is_compared_with_a_new_one(rws, old: Path) -> None:
    command = ["sampler=confidence", "benchmark=arithmetic", "benchmark.limit=8", "sampler.tokens_per_step=4"]
    assert rws("run", *command).exit_code == 0
    compared = rws("compare", "finished", "outputs/arithmetic/tiny-confidence/latest")
    assert compared.exit_code == 0, compared.output
    assert "8 examples, paired" in compared.output
    assert "confidence" in compared.output


def test_an_old_sweep_is_a_table(rws, old: Path) -> None:
    assert "4 examples, paired" in rws("compare", "sweep").output
    table = rws("table", "sweep")
    assert table.exit_code == 0, table.output
    assert "| pc | 100.0 (+0.0 [+0.0, +0.0]) | 1.50 (-10.56 [-12.42, -9.12])" in table.output


def test_a_finished_run_and_sweep_are_left_as_they_are(rws, old: Path) -> None:
    for command, runs in (("finished", ["finished"]), ("sweep", ["sweep/0", "sweep/1"])):
        result = rws("run", "--resume", command)
        assert result.exit_code == 0, result.output
        for run in runs:
            assert f"{run} is already finished" in result.output
            for file in ("manifest.json", "samples.jsonl", "trace.parquet", "metrics.json"):
                assert (old / run / file).read_bytes() == (DATA / run / file).read_bytes()


def test_a_killed_run_resumes_to_the_tokens_of_one_never_stopped(rws, old: Path) -> None:
    result = rws("run", "--resume", "killed")
    assert result.exit_code == 0, result.output
    assert "4 of 8 examples done" in (old / "killed" / "run.log").read_text(encoding="utf-8")
    assert same_run(old / "killed", old / "finished")
    assert manifest(old / "killed")["status"] == "finished"
    assert manifest(old / "killed")["config"] == read_manifest(old / "finished")["config"]
    assert len(manifest(old / "killed")["resumed"]) == 1


def test_a_killed_sweep_resumes_to_one_never_stopped(rws, old: Path) -> None:
    result = rws("run", "--resume", "killed_sweep")
    assert result.exit_code == 0, result.output
    assert "killed_sweep/0 is already finished" in result.output
    assert "4 examples, paired" in result.output
    for job in ("0", "1"):
        assert same_run(old / "killed_sweep" / job, old / "sweep" / job)


def test_an_old_run_does_not_resume_with_another_setting(rws, old: Path) -> None:
    result = rws("run", "--resume", "killed", "sampler.guidance.strength=2", "sampler.ties=probability")
    assert result.exit_code == 2
    assert "cannot be resumed, because these settings differ" in result.output
    assert "sampler.guidance.strength (1.0 then, 2.0 now)" in result.output
    assert "sampler.ties (leftmost then, probability now)" in result.output
