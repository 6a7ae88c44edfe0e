"""What can go wrong while a run decodes: what is lost, what is said, and what a resumed run makes of it."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from support import samples_of, type_in

from rws_cli.config.composing import compose
from rws_cli.models.base import Denoiser
from rws_cli.rewards.verifier import Verifier
from rws_cli.runs import folder as folders
from rws_cli.runs import manifest as manifests
from rws_cli.runs.prepared import prepare

RUN, TINY_RUN = Path("sudoku/small-rws/v001"), Path("arithmetic/tiny-rws/v001")
TINY = [
    "benchmark=arithmetic", "benchmark.limit=6", "reward=verifier", "runtime.batch_size=4", "sampler.tokens_per_step=4",
]  # fmt: skip
"""The bundled model distinguishes prompts, which the small random one does not."""


def status(run: Path) -> str:
    return json.loads((run / "manifest.json").read_text())["status"]


# --- an example that fails --------------------------------------------------------------------------------------------


def break_model(monkeypatch: pytest.MonkeyPatch, settings: list[str], number: int, value: float) -> str:
    """Logits of one example are `value`; returns its id."""
    task = prepare(compose(*settings))
    example = task.examples[number].id
    prompt, real = task.prompts[example], Denoiser.logits

    def logits(self: Denoiser, tokens_BL: Any, attention_BL: Any, wanted_BL: Any, *count: int) -> torch.Tensor:
        found_NV = real(self, tokens_BL, attention_BL, wanted_BL)
        rows = [r[a][: len(prompt)].tolist() == prompt for r, a in zip(tokens_BL, attention_BL, strict=True)]
        found_NV[torch.tensor(rows)[wanted_BL.nonzero()[:, 0]]] = value
        return found_NV

    monkeypatch.setattr(Denoiser, "logits", logits)
    return example


def break_reward(monkeypatch: pytest.MonkeyPatch, settings: list[str], number: int, value: float | Exception) -> str:
    example, real = prepare(compose(*settings)).examples[number].id, Verifier.score

    def score(self: Verifier, candidates: list) -> Any:
        scores = real(self, candidates)
        for n, candidate in enumerate(candidates):
            if candidate.example.id == example and candidate.step == 0:
                if isinstance(value, Exception):
                    raise value
                scores.values[n] = value
        return scores

    monkeypatch.setattr(Verifier, "score", score)
    return example


FAULTS = {
    "NaN logits": (break_model, float("nan"), "logits that are not finite"),
    "infinite logits": (break_model, float("inf"), "logits that are not finite"),
    "NaN reward": (break_reward, float("nan"), "returned nan for example"),
    "infinite reward": (break_reward, float("-inf"), "returned -inf for example"),
    "a reward whose tensors do not fit": (
        break_reward,
        RuntimeError("shapes cannot be multiplied"),
        "The reward failed: RuntimeError: shapes cannot be multiplied",
    ),
    "a reward that raises": (break_reward, KeyError("tokens"), "The reward failed: KeyError: 'tokens'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_example_that_fails_is_set_aside_and_said(rws, tmp_path: Path, fault: str) -> None:
    """The others are what they are without it, and a resumed run tries it again."""
    breaks, value, sentence = FAULTS[fault]
    assert rws("run", *TINY, "output=whole").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        broken = breaks(patch, TINY, 2, value)  # type: ignore[operator]
        result = rws("run", *TINY, "output=hurt")
    assert result.exit_code == 1, result.output
    assert "1 of 6 examples failed, see" in result.output
    assert "Traceback" not in result.output
    run = tmp_path / "hurt" / TINY_RUN
    whole = samples_of(tmp_path / "whole" / TINY_RUN)
    assert samples_of(run) == [sample for sample in whole if sample["id"] != broken]
    (failure,) = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert failure["id"] == broken
    assert sentence in failure["error"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["failed"] == {broken: failure["error"]}
    assert json.loads((run / "metrics.json").read_text())["failed"] == 1
    assert f"{broken} failed" in (run / "run.log").read_text()
    assert broken in rws("show", str(run)).output

    again = rws("run", "--resume", str(run))
    assert again.exit_code == 0, again.output
    assert samples_of(run) == whole
    assert status(run) == "finished"
    assert not (run / "failures.jsonl").exists()


def test_a_turn_after_one_that_failed_fails_with_it(rws, tmp_path: Path) -> None:
    settings = [*TINY, "benchmark.turns=2"]
    with pytest.MonkeyPatch.context() as patch:
        broken = break_model(patch, settings, 0, float("nan"))
        assert rws("run", *settings).exit_code == 1
    failed = json.loads((tmp_path / "outputs" / TINY_RUN / "manifest.json").read_text())["failed"]
    assert len(failed) == 2
    (after,) = set(failed) - {broken}
    assert failed[after] == f"the previous turn, {broken}, failed"


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_the_run_goes_on_later(rws, small: list[str], tmp_path: Path) -> None:
    settings = [*small, "benchmark.limit=24", "runtime.batch_size=1"]
    assert rws("run", *settings, "output=whole").exit_code == 0
    size = (tmp_path / "whole" / RUN / "samples.jsonl").stat().st_size

    def fill_up() -> None:  # a file that grows beyond this cannot be written, as on a disk without room
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    stopped = subprocess.run(
        [sys.executable, "-m", "rws_cli", "run", *settings, "output=full"], cwd=tmp_path, preexec_fn=fill_up,
        capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert stopped.returncode == 1, stopped.stderr
    assert "cannot be written: File too large" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = tmp_path / "full" / RUN
    assert status(run) == "failed"
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert samples_of(run) == samples_of(tmp_path / "whole" / RUN)


@pytest.mark.parametrize("file", ["metrics.json", "trace.parquet", "failures.jsonl", "manifest.json"])
def test_a_folder_that_turns_read_only_is_said(rws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == file and (Path(target).parent / "samples.jsonl").exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if file == "failures.jsonl":
        break_model(monkeypatch, TINY, 1, float("nan"))
    result = rws("run", *TINY)
    assert result.exit_code == 1, result.output
    assert "cannot be written" in result.output
    assert "Read-only file system" in result.output
    assert "rws run --resume" in result.output
    assert len(samples_of(tmp_path / "outputs" / TINY_RUN)) >= 3


@pytest.mark.parametrize("damage", ["truncated part", "left over", "no trace at all"])
def test_examples_whose_trace_is_broken_are_done_again(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assert rws("run", *small, "output=whole").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rws_cli.runs.run.join_trace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert rws("run", *small, "output=hurt").exit_code == 130
    run = tmp_path / "hurt" / RUN
    parts = sorted((run / "trace").glob("*.parquet"))
    assert len(parts) == 2
    if damage == "left over":
        (run / "trace" / ".half").write_bytes(b"PAR1")
    for part in parts if damage == "no trace at all" else parts[:1] if damage == "truncated part" else []:
        part.write_bytes(part.read_bytes()[:100])
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert samples_of(run) == samples_of(tmp_path / "whole" / RUN)
    assert pq.read_table(run / "trace.parquet") == pq.read_table(tmp_path / "whole" / RUN / "trace.parquet")


# --- other processes, and the clock -----------------------------------------------------------------------------------


def test_a_run_that_another_process_writes_is_left_alone(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs" / RUN
    before, manifest = samples_of(run), json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    with (run / ".lock").open("w") as held:
        held.write("process 77 on elsewhere")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = rws("run", "--resume", str(run))
    assert refused.exit_code == 2
    assert "is being written by another process (process 77 on elsewhere)" in refused.output
    assert samples_of(run) == before
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert not (run / ".lock").exists()


def test_a_clock_that_goes_backwards_harms_nothing(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "time", lambda: 1e9 - next(ticks))
    monkeypatch.setattr(manifests, "now", lambda: f"{2026 - next(ticks)}-01-01T00:00:00+00:00")
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs" / RUN
    assert all(value >= 0 for value in json.loads((run / "metrics.json").read_text())["cost"].values())
    assert rws("show", str(run)).exit_code == 0


def lines(run: Path) -> int:
    file = run / "samples.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_a_line(run: Path, process: Any) -> None:
    before, deadline = lines(run), time.monotonic() + 60
    while lines(run) == before and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_twenty_times_in_a_row(rws, small: list[str], tmp_path: Path) -> None:
    """At random moments of starting, decoding and writing: nothing is lost, nothing is there twice."""
    settings = [*small, "benchmark.limit=100", "runtime.batch_size=2", "sampler.tokens_per_step=1"]
    assert rws("run", *settings, "output=whole").exit_code == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support", "rws_cli.cli.jobs", "rws_cli.runs.run", "rws_cli.report.terminal"])
    run, draw, kills, done = tmp_path / "killed" / RUN, random.Random(0), 0, [0]
    while kills < 20:
        started = (run / "manifest.json").exists()
        if started and status(run) == "finished":
            break
        if not started and run.exists():
            run.rmdir()  # killed between claiming the folder and its manifest
        arguments = ["run", "--resume", str(run)] if started else ["run", *settings, "output=killed"]
        process = context.Process(target=type_in, args=(tmp_path, arguments))
        process.start()
        if draw.random() < 0.7:  # once it has written something more; else wherever it is by then
            wait_for_a_line(run, process)
        process.join(draw.uniform(0, 0.2))
        process.kill()
        process.join()
        kills += process.exitcode == -9
        done.append(lines(run))
    assert kills == 20
    assert done == sorted(done)
    assert len(set(done)) > 5
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert samples_of(run) == samples_of(tmp_path / "whole" / RUN)
    assert pq.read_table(run / "trace.parquet") == pq.read_table(tmp_path / "whole" / RUN / "trace.parquet")


def test_a_lock_names_its_process_and_goes_with_it(tmp_path: Path) -> None:
    with folders.run_lock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    assert not (tmp_path / ".lock").exists()
