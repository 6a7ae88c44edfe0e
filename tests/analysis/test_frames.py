"""Frames of runs against the files, read by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import manifest_of, sample_of, write_run

from rws_cli.analysis.frames import by_step, heat, runs_frame, samples_frame, swept_settings, tokens_frame
from rws_cli.analysis.run import Run
from rws_cli.runs.reading import read_run

FINITE = ("confidence", "reward", "scale")
WHOLE = ("step", "position", "token")


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def equal(value: Any, expected: Any) -> bool:
    return pd.isna(value) if expected is None else value == pytest.approx(expected, nan_ok=True)


@pytest.fixture
def folder(rws, small: list[str], tmp_path: Path) -> Path:
    assert rws("run", *small, "metric=[length]").exit_code == 0
    return tmp_path / "outputs/sudoku/small-rws/v001"


def test_a_row_per_example_has_what_its_line_has(folder: Path) -> None:
    frame, lines = samples_frame(read_run(folder)), lines_of(folder)
    assert frame["id"].tolist() == [line["id"] for line in lines]
    where: dict[str, tuple[str, ...]] = {
        "completion": ("completion",), "reference": ("reference",), "prompt": ("prompt",), "question": ("question",),
        "correct": ("grade", "correct"), "extracted": ("grade", "extracted"), "extractor": ("grade", "extractor"),
        "partial": ("grade", "partial"), "reward": ("reward",), "god": ("order", "god_tokens"),
        "mean_jump": ("order", "mean_jump"), "kendall_tau_with_eos": ("order_with_eos", "kendall_tau"),
        "scale": ("guidance", "scale"), "changed_selections": ("guidance", "changed_selections"),
        "reward_cache_hits": ("cost", "reward_cache_hits"), "seconds": ("cost", "seconds"), "length": ("length",),
        "remasked": ("remasked",), "length.words": ("measures", "length.words"),
    }  # fmt: skip
    for column, keys in where.items():
        for value, line in zip(frame[column], lines, strict=True):
            expected: Any = line
            for key in keys:
                expected = expected[key]
            assert equal(value, expected), column
    assert frame["accuracy"].tolist() == [float(line["grade"]["correct"]) for line in lines]
    tokens = [line["cost"]["mdm_tokens"] + line["cost"]["reward_tokens"] for line in lines]
    assert frame["tokens"].tolist() == tokens
    ties = [line["near_ties"] / line["committed"] for line in lines]
    assert frame["near_ties"].tolist() == pytest.approx(ties)
    assert not frame.columns.duplicated().any()


def test_what_is_not_graded_or_guided_has_gaps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", "confidence", 0, {"a": 1.0})
    samples = [sample_of("a", 1.0), sample_of("b", 0.0, grade=None, measures={"length.words": 3.0})]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    frame = samples_frame(read_run(folder))
    assert frame["correct"].tolist() == [True, pd.NA]
    assert equal(frame["accuracy"][1], None)
    assert frame["scale"].isna().all()
    assert frame["length.words"].isna().tolist() == [True, False]
    assert frame["correct"].dtype == "boolean"
    assert frame["scale"].dtype == frame["reward"].dtype == "float64"


@pytest.mark.parametrize("sampler", ["rws", "remdm_cap"])
def test_a_row_per_committed_token_has_what_the_trace_has(rws, small: list[str], tmp_path: Path, sampler: str) -> None:
    assert rws("run", *small, f"sampler={sampler}").exit_code == 0
    folder = tmp_path / f"outputs/sudoku/small-{sampler}/v001"
    rows = pq.read_table(folder / "trace.parquet").to_pylist()
    frame = tokens_frame(read_run(folder, traced=True))
    expected = [(row["id"], n) for row in rows for n in range(len(row["step"]))]
    assert frame["id"].tolist() == [name for name, _ in expected]
    by_id = {row["id"]: row for row in rows}
    for column in (name for name in rows[0] if name != "id"):
        values = [by_id[name][column][n] for name, n in expected]
        assert all(map(equal, frame[column], values)), column
    for column in WHOLE:
        assert frame[column].dtype == "int32"
    for column in FINITE:
        assert frame[column].dtype == "float64"
    assert frame["remasked_at"].dtype == "Int32"
    assert frame["step"].min() == frame["position"].min() == 0
    if sampler == "remdm_cap":
        assert frame["remasked_at"].notna().any()
        stood = frame[frame["remasked_at"].isna()]
        assert len(stood) == len(rows) * 36
        assert (frame["remasked_at"].dropna() > frame["step"][frame["remasked_at"].notna()]).all()


def traced(rows: list[dict[str, Any]], names: list[str]) -> Run:
    types = {
        "step": pa.int32(),
        "position": pa.int32(),
        "near_tie": pa.bool_(),
        "text": pa.string(),
        "confidence": pa.float64(),
    }
    schema = pa.schema([("id", pa.string()), *((name, pa.list_(types[name])) for name in names)])
    samples = {row["id"]: {"tokens": [0] * 2} for row in rows}
    return Run(Path(), {}, 1, samples, trace=pa.Table.from_pylist(rows, schema=schema))


def test_lists_that_older_examples_lack_are_gaps() -> None:
    rows = [
        {"id": "a", "step": [0, 1], "near_tie": None, "text": None},
        {"id": "b", "step": [], "near_tie": [], "text": []},
        {"id": "c", "step": [3], "near_tie": [True], "text": ["x"]},
    ]
    frame = tokens_frame(traced(rows, ["step", "near_tie", "text"]))
    assert frame["id"].tolist() == ["a", "a", "c"]
    assert frame["step"].tolist() == [0, 1, 3]
    assert frame["near_tie"].tolist() == [pd.NA, pd.NA, True]
    assert frame["text"].isna().tolist() == [True, True, False]
    assert frame["text"][2] == "x"


def test_a_run_without_its_trace_says_so(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "r", "confidence", 0, {"a": 1.0}))
    with pytest.raises(ValueError, match="without its trace"):
        tokens_frame(run)


def test_the_last_commit_of_a_position_counts_in_the_heat_map() -> None:
    rows = [
        {"id": "a", "step": [0, 0, 2], "position": [0, 1, 0], "confidence": [0.5, 1.0, 0.25]},
        {"id": "b", "step": [0, 1], "position": [1, 0], "confidence": [0.5, 0.75]},
    ]
    run = traced(rows, ["step", "position", "confidence"])
    np.testing.assert_allclose(heat(run), [[0, 1], [0.5, 0], [0.5, 0]])
    frame = by_step(run, "confidence")
    assert frame is not None
    assert frame["mean"].to_dict() == {0: (0.75 + 0.5) / 2, 1: 0.75, 2: 0.25}
    assert frame["low"][0] == pytest.approx(0.5 + 0.1 * 0.25)


def test_a_row_per_run_has_its_settings_and_measures(folder: Path) -> None:
    frame, metrics = runs_frame([read_run(folder)]), json.loads((folder / "metrics.json").read_text())
    (row,) = frame.to_dict("records")
    config = json.loads((folder / "manifest.json").read_text())["config"]
    assert row["sampler.guidance.strength"] == config["sampler"]["guidance"]["strength"]
    assert (row["seed"], row["benchmark.limit"]) == (config["seed"], config["benchmark"]["limit"])
    assert row["status"] == "finished"
    assert (row["name"], row["run"]) == ("rws", str(folder.resolve()))
    assert (row["examples"], row["failed"]) == (metrics["examples"], metrics["failed"])
    assert [row["accuracy_low"], row["accuracy_high"]] == metrics["accuracy_interval"]
    expected = {
        "accuracy": metrics["accuracy"], "reward": metrics["reward"], "god": metrics["order"]["god_tokens"],
        "reversals": metrics["guidance"]["reversals"], "length.words": metrics["measures"]["length.words"],
        "mdm_passes": metrics["cost"]["mdm_passes"] / metrics["examples"], "pass@1": None,
        "total_mdm_passes": metrics["cost"]["mdm_passes"], "total_seconds": metrics["cost"]["seconds"],
        "run_seconds": metrics["cost"]["run_seconds"],
    }  # fmt: skip
    for name, value in expected.items():
        assert equal(row[name], value), name
    assert not frame.columns.duplicated().any()


def test_an_unfinished_run_has_what_its_examples_come_to(tmp_path: Path) -> None:
    running = write_run(tmp_path / "r", "confidence", 0, {"a": 1.0, "b": 0.0}, status="running")
    (running / "metrics.json").write_text("{}")  # of an attempt before: not looked at
    empty = write_run(tmp_path / "e", "confidence", 0, {}, status="interrupted")
    runs = [
        read_run(empty),
        Run(running, read_run(empty).manifest | {"status": "running"}, 1, read_run_samples(running)),
    ]
    frame = runs_frame(runs)
    assert frame["accuracy"].isna().tolist() == [True, False]
    assert frame["accuracy"][1] == 0.5
    assert frame["status"].tolist() == ["interrupted", "running"]
    assert {frame[name].dtype.kind for name in ("examples", "accuracy", "reward", "near_ties")} == {"f"}


def read_run_samples(folder: Path) -> dict[str, Any]:
    return {line["id"]: line for line in lines_of(folder)}


def job(overrides: list[str], **config: Any) -> Run:
    return Run(Path(), manifest_of(config, overrides=overrides), 1, {})


def test_swept_settings_are_those_in_which_jobs_differ() -> None:
    runs = [
        job(["sampler=rws", "sampler.steps=4", "+extra.x=1", "seed=0"], seed=0, sampler={"name": "rws", "steps": 4}),
        job(["sampler=pc", "sampler.steps=8", "+extra.x=1", "seed=0"], seed=0, sampler={"name": "pc", "steps": 8}),
    ]
    assert swept_settings(runs) == [{"sampler": "rws", "sampler.steps": 4}, {"sampler": "pc", "sampler.steps": 8}]


def test_a_setting_that_only_some_jobs_were_given_has_its_default_in_the_others() -> None:
    runs = [
        job(["sampler=a"], seed=0, sampler={"steps": None, "guidance": {"strength": 1.0}}),
        job(["sampler=b", "sampler.guidance.strength=2"], seed=0, sampler={"guidance": {"strength": 2.0}}),
        job(["sampler=b", "~label"], seed=0, sampler={"guidance": {"strength": 1.0}}),
    ]
    assert swept_settings(runs) == [
        {"sampler": "a", "sampler.guidance.strength": 1.0},
        {"sampler": "b", "sampler.guidance.strength": 2.0},
        {"sampler": "b", "sampler.guidance.strength": 1.0},
    ]
    assert swept_settings(runs[:1]) == [{}]


def test_a_long_run_takes_seconds_and_little_memory() -> None:
    """20,000 examples of 32 tokens."""
    examples, tokens = 20_000, 32
    n = examples * tokens
    offsets = pa.array(np.arange(0, n + 1, tokens, dtype=np.int32))
    draw = np.random.default_rng(0)
    flat = {
        "step": pa.array(np.tile(np.arange(tokens, dtype=np.int32) // 2, examples)),
        "position": pa.array(np.tile(np.arange(tokens, dtype=np.int32), examples)),
        "token": pa.array(draw.integers(0, 50_000, n, dtype=np.int32)),
        "text": pa.array(draw.integers(0, 50_000, n).astype(str)),
        **{name: pa.array(draw.random(n)) for name in FINITE},
        "remasked_at": pa.nulls(n, pa.int32()),
        "near_tie": pa.array(np.zeros(n, bool)),
    }
    columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}
    trace = pa.table({"id": [f"example-{i}" for i in range(examples)], **columns})
    started = time.perf_counter()
    frame = tokens_frame(Run(Path(), {}, 1, {}, trace=trace))
    assert time.perf_counter() - started < 5
    assert frame.memory_usage(deep=True).sum() < 100e6
    assert len(frame) == n
    assert frame["id"].iloc[-1] == "example-19999"
    assert frame["text"].iloc[-1] == flat["text"][-1].as_py()
