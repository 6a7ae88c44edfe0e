"""What a run decides by itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import LIMIT, samples_of

from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.models.topology import FULL
from rws_cli.runs import batch_decoder, run
from rws_cli.runs.batch_decoder import automatic_batch
from rws_cli.runs.records import read_trace


@pytest.mark.parametrize(
    ("vocabulary", "gen_length", "rows"),
    [
        (367, 36, 50),  # the bundled model: as many as are of use
        (126_464, 256, 16),  # 16 · 256 · 126,464 · 4 bytes = 1.93 GiB, a seventeenth row would pass 2 GiB
        (126_464, 1024, 4),
        (1_000_000, 4096, 1),  # never none
    ],
)
def test_rows_at_a_time_follow_from_memory(vocabulary: int, gen_length: int, rows: int) -> None:
    prepared = SimpleNamespace(vocabulary=vocabulary, topology=FULL)
    config = compose(f"sampler.gen_length={gen_length}")
    assert automatic_batch(config, SimpleNamespace(model=prepared)) == rows  # type: ignore[arg-type]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, after: int = 0) -> list[int]:
    """Passes of more rows than `most` do not fit into memory, once `after` examples are decoded; returns the rows tried."""
    tried: list[int] = []
    real, finished = batch_decoder.Attempt.outcomes, [0]

    def outcomes(self):
        rows = self.decoder.predict.most_rows
        tried.append(rows)
        for outcome in real(self):
            if rows > most and finished[0] >= after:  # it fails late, when tokens are committed
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 12 bytes"
                )
            finished[0] += len(outcome.samples)
            yield outcome

    monkeypatch.setattr(batch_decoder.Attempt, "outcomes", outcomes)
    return tried


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rws("run", *small, "output=whole", "runtime.batch_size=1").exit_code == 0
    tried = short_of_memory(monkeypatch, most=1, after=4)
    result = rws("run", *small, "output=halved", "runtime.batch_size=4")
    assert result.exit_code == 0, result.output
    assert tried == [4, 2, 1]
    folder = tmp_path / "halved/sudoku/small-rws/v001"
    assert samples_of(folder) == samples_of(tmp_path / "whole/sudoku/small-rws/v001")
    log = (folder / "run.log").read_text()
    assert "out of memory with 4 rows in a forward pass: continuing with 2" in log
    assert "out of memory with 2 rows in a forward pass: continuing with 1" in log


def test_out_of_memory_with_one_row_is_said_and_what_is_done_is_kept(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, most=0, after=2)
    result = rws("run", *small, "runtime.batch_size=2")
    assert result.exit_code == 1
    assert "Out of memory with a single row" in result.output
    assert "Traceback" not in result.output
    folder = tmp_path / "outputs/sudoku/small-rws/v001"
    assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    assert len(samples_of(folder)) == 2


def test_prompts_of_one_length_are_decoded_together_and_told_in_order(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest first; samples and trace are in the benchmark's order again."""
    flat: list[int] = []
    real = batch_decoder.Decoder

    def decoder(denoiser, prompts, *rest, **options):
        flat.extend(len(prompt.ids) for prompt in prompts)
        return real(denoiser, prompts, *rest, **options)

    monkeypatch.setattr(batch_decoder, "Decoder", decoder)
    settings = [*small, "benchmark=arithmetic", f"benchmark.limit={2 * LIMIT}", "sampler.tokens_per_step=4"]
    assert rws("run", *settings, "runtime.batch_size=3").exit_code == 0
    assert flat == sorted(flat, reverse=True)
    assert len(set(flat)) > 1
    folder = tmp_path / "outputs/arithmetic/small-rws/v001"
    ids = [example.id for example in run.prepare(compose(*settings)).examples]
    assert [sample["id"] for sample in samples_of(folder)] == ids
    assert [row["id"] for row in read_trace(folder)] == ids


def test_an_example_whose_marker_raises_is_set_aside(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Sudoku.grade

    def grade(self, example, answer):
        if example.id == "sudoku-test-0-1":
            raise IndexError("no such place")
        return real(self, example, answer)

    monkeypatch.setattr(Sudoku, "grade", grade)
    assert rws("run", *small, "reward=none", "sampler=confidence").exit_code == 1
    run = tmp_path / "outputs" / "sudoku" / "small-confidence" / "v001"
    failures = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert [failure["id"] for failure in failures] == ["sudoku-test-0-1"]
    assert "IndexError: no such place" in failures[0]["error"]
    assert len(samples_of(run)) == len(read_trace(run)) == LIMIT - 1
    assert json.loads((run / "metrics.json").read_text())["failed"] == 1
