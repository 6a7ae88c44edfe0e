"""rws grade and rws measure: one at a time, all or nothing, and the old grades stay beside the new."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.errors import RunError, UsageError
from rws_cli.runs import regrade
from rws_cli.runs.folder import find_run
from rws_cli.runs.reading import compare_runs

TINY = ["sampler=confidence", "reward=none", "benchmark=arithmetic", "benchmark.limit=3", "sampler.gen_length=8",
        "sampler.tokens_per_step=8"]  # fmt: skip


@pytest.fixture
def run(rws, tmp_path: Path) -> Path:
    result = rws("run", *TINY)
    assert result.exit_code == 0, result.output
    return next(tmp_path.glob("outputs/arithmetic/*/v001"))


def state(run: Path) -> tuple[list[bool], float, int, int]:
    """Grades, accuracy, notes in the manifest and the version there: what has to agree."""
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    accuracy = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
    version = manifest["sources"]["benchmark"]["version"]
    return [s["grade"]["correct"] for s in samples], accuracy, len(manifest.get("graded", [])), version


def mark_all_right(patch: pytest.MonkeyPatch) -> None:
    """A newer grader that takes every answer."""
    real = Arithmetic.grade
    patch.setattr(Arithmetic, "version", Arithmetic.version + 1)
    patch.setattr(Arithmetic, "grade", lambda self, example, answer: real(self, example, example.reference))


class Killed(BaseException):
    pass


def test_a_kill_between_any_two_writes_leaves_a_run_that_agrees_with_itself(run: Path) -> None:
    version, before = Arithmetic.version, state(run)
    after = ([True] * 3, 1.0, 1, version + 1)
    assert before[0] != after[0]
    found, number, real = [], 0, os.replace
    while not found or found[-1] != after:
        left, number = [number], number + 1

        def replace(source: Any, target: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            real(source, target)

        with pytest.MonkeyPatch.context() as patch:
            mark_all_right(patch)
            patch.setattr(os, "replace", replace)
            with contextlib.suppress(Killed):
                regrade.regrade(run, [])
        found.append(state(find_run(str(run))))
    assert set(map(str, found)) == {str(before), str(after)}
    assert len(found) >= 4
    assert not list(run.glob(".new")), "what was moved is gone"


def test_old_marks_stay_beside_the_new_and_versions_are_not_mixed(rws, run: Path, tmp_path: Path) -> None:
    assert rws("run", *TINY).exit_code == 0
    other = run.parent / "v002"
    old = state(run)[0]
    with pytest.MonkeyPatch.context() as patch:
        mark_all_right(patch)
        wrong = old.count(False)
        assert f"grades changed: {wrong}; samples.jsonl keeps the old ones" in rws("grade", str(run)).output
        assert "grades changed: 0" in rws("grade", str(run)).output
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[(m["version"], m["grade"]["correct"]) for m in s["grades_before"]] for s in samples] == [
        [(Arithmetic.version, correct)] for correct in old
    ]
    with pytest.raises(
        UsageError, match=r"version 2.* version 1.*rws grade .*v002|version 1.* version 2.*rws grade .*v002"
    ):
        compare_runs([run, other])
    for command in ("compare", "table", "report", "pareto"):
        result = rws(command, str(run), str(other))
        assert result.exit_code == 2, (command, result.output)
        assert "rws grade" in result.output
    with pytest.MonkeyPatch.context() as patch:
        mark_all_right(patch)
        assert rws("grade", str(other)).exit_code == 0
    assert compare_runs([run, other])


def test_a_run_in_use_is_neither_marked_nor_measured(rws, run: Path) -> None:
    before = state(run)
    with (run / ".lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command in (["grade", str(run)], ["measure", str(run), "metric=[length]"]):
            result = rws(*command)
            assert result.exit_code == 2
            assert "is being written by another process" in result.output
    assert state(run) == before


def test_a_marker_that_raises_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(run)
    monkeypatch.setattr(Arithmetic, "grade", lambda self, example, answer: 1 / 0)
    with pytest.raises(RunError, match=r"The completion of arithmetic-test-0-0 cannot be graded: ZeroDivisionError"):
        regrade.regrade(run, [])
    assert state(run) == before


def test_a_link_in_place_of_new_files_is_left_alone(run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "samples.jsonl").write_text("precious", encoding="utf-8")
    (run / ".new").symlink_to(theirs)
    find_run(str(run))
    assert (theirs / "samples.jsonl").exists()


def test_the_first_answer_may_be_one_that_cannot_be_marked(rws, tmp_path: Path) -> None:
    """With one example in a batch, too, the others are decoded, and a resume ends the run."""
    real, calls = Arithmetic.grade, []

    def grade(self: Arithmetic, example: Any, answer: str) -> Any:
        calls.append(example.id)
        if len(calls) == 1:
            raise TypeError("expected a number")
        return real(self, example, answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arithmetic, "grade", grade)
        assert rws("run", *TINY, "runtime.batch_size=1").exit_code == 1
    run = next(tmp_path.glob("outputs/arithmetic/*/v001"))
    (failure,) = [json.loads(line) for line in (run / "failures.jsonl").read_text(encoding="utf-8").splitlines()]
    assert failure["id"] == calls[0]
    assert "TypeError: expected a number" in failure["error"]
    assert len((run / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert len(state(run)[0]) == 3
