"""Benchmarks with a canvas: HumanEval Infilling in its published format, prompts with a canvas, sudoku's clues."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import SHARED, samples_of

from rws_cli.benchmarks.humaneval_infilling import HumanEvalInfilling
from rws_cli.benchmarks.sudoku import BLANK, NAMES, Sudoku
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.runs.records import read_trace

PUBLISHED = {
    "task_id": "test/0", "prompt": "def return1():\n", "suffix": "1", "canonical_solution": "    return ",
    "test": "def check(candidate):\n    assert candidate() == 1", "entry_point": "return1",
}  # fmt: skip


def single_lines(row: dict) -> list[dict]:
    """The tasks of a HumanEval problem, one for each line of its solution that is not blank (InCoder, arXiv 2204.05999)."""
    lines = row["canonical_solution"].splitlines(keepends=True)
    return [
        row | {"prompt": row["prompt"] + "".join(lines[:n]), "suffix": "".join(lines[n + 1 :]), "canonical_solution": line}
        for n, line in enumerate(lines)
        if line.strip()
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_infilling_tasks_are_read_and_graded_as_published(tmp_path: Path, suffix: str) -> None:
    tasks = [PUBLISHED]
    if (file := SHARED / "data" / "humaneval.jsonl").exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        tasks += [task for row in rows[:1] for task in single_lines(row)]
    path, lines = tmp_path / f"tasks{suffix}", "".join(json.dumps(task) + "\n" for task in tasks)
    path.write_bytes(gzip.compress(lines.encode()) if suffix.endswith("gz") else lines.encode())
    settings = compose("benchmark=humaneval_infilling", "benchmark.allow_code_execution=true").benchmark
    benchmark = replace(settings, path=str(path))
    examples = benchmark.examples()
    assert len(examples) == len(tasks)
    for example, task in zip(examples, tasks, strict=True):
        assert example.canvas == (task["prompt"], None, task["suffix"])
        before, _, after = example.canvas
        for middle, correct in ((task["canonical_solution"], True), ("    raise ValueError(", False)):
            assert benchmark.grade(example, before + middle + after).correct is correct
    assert replace(benchmark, masks=7).examples()[0].canvas[1] == 7
    program = HumanEvalInfilling().program(PUBLISHED, "x")  # as in the published harness
    assert program.split() == f"x\n{PUBLISHED['test']}\ncheck(return1)".split()


def test_a_broken_archive_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl.gz"
    for broken in (b"no gzip", gzip.compress(b"{}\n" * 100)[:-9]):
        path.write_bytes(broken)
        settings = compose("benchmark=humaneval_infilling", "benchmark.allow_code_execution=true").benchmark
        with pytest.raises(UsageError, match=r"tasks.jsonl.gz cannot be read: .*gzip"):
            replace(settings, path=str(path)).examples()


def test_clues_stand_on_the_canvas() -> None:
    plain, moved = Sudoku(limit=3).examples(), Sudoku(limit=3, clues="canvas").examples()
    for a, b in zip(plain, moved, strict=True):
        assert (a.id, a.reference) == (b.id, b.reference)
        cells = [cell[3:] for cell in a.prompt.split()[1:]]
        assert b.prompt == "sudoku " + " ".join(f"{name}={BLANK}" for name in NAMES)
        assert b.canvas == tuple(1 if cell == BLANK else cell for cell in cells)
        assert a.canvas == ()


def test_a_run_keeps_the_clues_and_records_them(rws, tmp_path: Path) -> None:
    result = rws("run", "benchmark.clues=canvas", "benchmark.limit=2", "sampler=threshold", "runtime.batch_size=2")
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs" / "sudoku" / "tiny-threshold" / "v001"
    for sample, example in zip(samples_of(run), Sudoku(limit=2, clues="canvas").examples(), strict=True):
        clues = [[n, cell] for n, cell in enumerate(example.canvas) if cell != 1]
        assert sample["fixed"] == clues
        assert [[n, sample["completion"][n]] for n, _ in clues] == clues
        assert sample["committed"] == 36 - len(clues)
    replayed = rws("replay", str(run), sample["id"])
    assert replayed.exit_code == 0, replayed.output
    first = next(line[2:] for line in replayed.output.splitlines() if line.startswith("  "))
    assert [[n, first[n]] for n, _ in clues] == clues
    assert first.count("·") == 36 - len(clues) - sum(step == 0 for step in read_trace(run)[-1]["step"])
    assert rws("report", str(run)).exit_code == 0


def test_prompts_with_a_canvas(rws, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "ben has 2 eggs", "canvas": "2 +[MASK:3]. ####[MASK]"}, {"prompt": "ben has 3 eggs"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["benchmark=instructions", f"benchmark.path={file}", "sampler=confidence", "reward=none"]
    result = rws("run", *settings, "sampler.gen_length=8")
    assert result.exit_code == 0, result.output
    with_canvas, without = samples_of(tmp_path / "outputs" / "instructions" / "tiny-confidence" / "v001")
    assert [text for _, text in with_canvas["fixed"]] == ["2", " +", ".", " ####"]
    assert (len(with_canvas["tokens"]), len(without["tokens"])) == (8, 8)
    assert with_canvas["committed"] == 4
    assert "fixed" not in without
    result = rws("run", *settings, "sampler.gen_length=7")
    assert result.exit_code == 2
    assert "canvas of example instructions-0 has 8 tokens: set sampler.gen_length=8 or more, not 7" in result.output
    file.write_text(json.dumps({"prompt": "q", "canvas": "a"}))
    result = rws("run", *settings)
    assert result.exit_code == 2
    assert "its field canvas has no mask: write [MASK:12]" in " ".join(result.output.split())
