"""Runs that were killed or interrupted, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from support import samples_of

from rws_cli.benchmarks import jail
from rws_cli.benchmarks.humaneval import HumanEval
from rws_cli.runs.stopping import SIGNALS, stoppable


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


@pytest.mark.parametrize("lines", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 7))])
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


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_records_its_batch_and_says_how_to_go_on(
    rws, slow: list[str], tmp_path: Path, stop: signal.Signals
) -> None:
    process = start_and_stop(tmp_path, slow, 2, stop)
    message = process.communicate()[1]
    assert process.returncode == 128 + stop
    assert "Stopping after the current batch" in message
    assert "Traceback" not in message
    run = tmp_path / "stopped" / "sudoku" / "small-rws" / "v001"
    assert f"rws run --resume {run.relative_to(tmp_path)}" in message
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    stopped = samples_of(run)
    assert 2 <= len(stopped) < 12
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert len(samples_of(run)) == 12
    whole = {sample["id"]: sample for sample in samples_of(run)}
    for sample in stopped:  # one that was stopped before it was graded has its grade now
        assert sample in (whole[sample["id"]], whole[sample["id"]] | {"grade": None})


def programs() -> list[Path]:
    """The folders of the programs that run."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if jail.__file__ in child.cmdline():
                found.append(Path(child.cwd()))
    return found


def when_a_program_runs(stop: signal.Signals) -> tuple[threading.Thread, list[float]]:
    """Signal this process while the endless program runs; the list gets the time."""
    at: list[float] = []

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not any((folder / "begun").exists() for folder in programs()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        at.append(time.monotonic())
        os.kill(os.getpid(), stop)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, at


@pytest.mark.skipif(not jail.landlock_version(), reason="this kernel has no Landlock")
@pytest.mark.slow
@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_while_a_program_runs_ends_the_command_and_loses_no_answer(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    endless = "open('begun', 'w')\nwhile True: pass"
    rows = [
        {"prompt": "w1 " * (9 - n), "entry_point": "f", "canonical_solution": "", "test": test}
        for n, test in enumerate(["pass", endless, "assert False"])
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(HumanEval, "program", lambda self, row, answer: row["test"])
    options = [*small, "reward=none", "benchmark=humaneval", "benchmark.path=tasks.jsonl", "benchmark.seconds=60",
               "benchmark.allow_code_execution=true", "benchmark.gen_length=6", "benchmark.limit=3"]  # fmt: skip
    watcher, at = when_a_program_runs(stop)
    stopped = rws("run", *options, "sampler=confidence")
    watcher.join()
    run = tmp_path / "outputs" / "humaneval" / "small-confidence" / "v001"
    assert time.monotonic() - at[0] < 2
    assert stopped.exit_code == 128 + stop, stopped.output
    assert f"rws run --resume {run.relative_to(tmp_path)}" in stopped.output
    assert programs() == []
    kept = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [sample["grade"] and sample["grade"]["correct"] for sample in kept] == [True, None, None]

    monkeypatch.setattr(HumanEval, "program", lambda self, row, answer: row["test"].replace(endless, "pass"))
    assert rws("run", "--resume", str(run)).exit_code == 0
    whole = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [sample.pop("grade")["correct"] for sample in whole] == [True, True, False]
    assert whole == [{key: value for key, value in sample.items() if key != "grade"} for sample in kept]  # seconds too

    before = {file: file.read_bytes() for file in run.iterdir()}
    monkeypatch.setattr(HumanEval, "program", lambda self, row, answer: endless)
    watcher, at = when_a_program_runs(stop)
    stopped = rws("grade", str(run))
    watcher.join()
    assert time.monotonic() - at[0] < 2
    assert stopped.exit_code == 128 + stop, stopped.output
    assert "--resume" not in stopped.output
    assert programs() == []
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_resume_of_a_finished_run_writes_nothing_and_others_add_up(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    before, cost = contents(tmp_path), json.loads((run / "metrics.json").read_text())["cost"]
    again = rws("run", "--resume", str(run))
    assert (again.exit_code, again.output) == (0, "outputs/sudoku/small-rws/v001 is already finished\n")
    assert contents(tmp_path) == before

    # As it stands after a kill in the middle: the manifest says what the first sitting took, two examples are missing.
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["spent"]["run_seconds"] == cost["run_seconds"]
    spent = {"setup_seconds": 100.0, "run_seconds": 1000.0, "peak_memory_bytes": 10**15}
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running", "spent": spent}))
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    (run / "samples.jsonl").write_text("".join(lines[:-2]))
    (run / ".samples.jsonl.4711").write_text("half a")
    assert rws("run", "--resume", str(run)).exit_code == 0
    after = json.loads((run / "metrics.json").read_text())["cost"]
    assert 1000 < after["run_seconds"] < 1100
    assert 100 < after["setup_seconds"] < 200
    assert after["peak_memory_bytes"] == 10**15
    assert after["seconds"] < after["run_seconds"]
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_sitting_that_breaks_off_leaves_what_it_took(rws, small: list[str], tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    with monkeypatch.context() as patch:
        patch.setattr("rws_cli.runs.run.write_failures", broken)  # after the first batch
        assert isinstance(rws("run", *small).exception, RuntimeError)
    taken = json.loads((run / "manifest.json").read_text())["spent"]["run_seconds"]
    seconds = sum(json.loads(line)["cost"]["seconds"] for line in (run / "samples.jsonl").read_text().splitlines())
    assert 0 < seconds < taken


@pytest.mark.parametrize("name", ["samples.jsonl", "run.log"])
def test_a_resume_writes_through_no_link(rws, small: list[str], tmp_path: Path, name: str) -> None:
    assert rws("run", *small, "benchmark.limit=1").exit_code == 0
    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    (tmp_path / "mine").write_text("")
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "mine")
    resumed = rws("run", "--resume", str(run))
    assert resumed.exit_code == 2
    assert f"{name} is a link" in resumed.output
    assert (tmp_path / "mine").read_text() == ""
