"""Run folders: versions claimed once, files whole, broken lines dropped."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sample_of

from rws_cli.errors import RunError, UsageError
from rws_cli.runs.folder import claim_version, find_run, find_runs, point_latest, write_json
from rws_cli.runs.records import append_samples, drop_broken_line, join_trace, read_samples, write_trace_part


def _claim(parent: str) -> str:
    return claim_version(Path(parent)).name


def test_versions_count_up_and_latest_follows(tmp_path: Path) -> None:
    parent = tmp_path / "sudoku" / "tiny-rws"
    for expected in ("v001", "v002", "v003"):
        folder = claim_version(parent)
        point_latest(folder)
        assert folder.name == expected
        assert (parent / "latest").resolve() == folder.resolve()
    (parent / "v007").mkdir()
    (parent / "notes").mkdir()
    assert claim_version(parent).name == "v008"


def test_runs_started_at_once_never_share_a_version(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        names = pool.map(_claim, [str(tmp_path)] * 40)
    assert sorted(names) == [f"v{n:03d}" for n in range(1, 41)]


def test_an_output_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        claim_version(tmp_path / "outputs" / "x")


samples_strategy = st.lists(
    st.builds(
        lambda answer, reward: sample_of("a", 1.0, answer=answer, reward=reward),
        st.text(),
        st.none() | st.floats(-1, 1),
    ),
    min_size=1,
    max_size=5,
)


@given(samples=samples_strategy, cut=st.integers(0, 10_000))
def test_a_run_killed_in_a_line_loses_that_line_alone(tmp_path_factory, samples: list[dict], cut: int) -> None:
    run = tmp_path_factory.mktemp("run")
    append_samples(run, samples)
    content = (run / "samples.jsonl").read_bytes()
    cut = cut % (len(content) + 1)
    (run / "samples.jsonl").write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert read_samples(run)[:whole] == samples[:whole]
    drop_broken_line(run / "samples.jsonl")
    assert read_samples(run) == samples[:whole]
    append_samples(run, samples[whole:])
    assert (run / "samples.jsonl").read_bytes() == content


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    append_samples(tmp_path, [sample_of("a", 1.0)])
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"id": \n{"id": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        read_samples(tmp_path)


def trace_row(name: str, step: int) -> dict:
    return {
        "id": name,
        "step": [step],
        "position": [0],
        "token": [7],
        "confidence": [0.5],
        "reward": [None],
        "scale": [1.5],
        "pairs": [6],
        "reversals": [1],
        "other_set": [False],
        "masked": [None],
        "near_tie": [False],
        "text": ["x"],
    }


def test_trace_parts_join_in_order_without_doubles(tmp_path: Path) -> None:
    write_trace_part(tmp_path, [trace_row("b", 1), trace_row("c", 2)])
    write_trace_part(tmp_path, [trace_row("a", 0), trace_row("b", 1)])
    join_trace(tmp_path, ["a", "b", "c"])
    rows = pq.read_table(tmp_path / "trace.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0] == trace_row("a", 0)
    assert not (tmp_path / "trace").exists()
    write_trace_part(tmp_path, [trace_row("d", 3)])  # a resumed run adds to what an earlier join has left
    join_trace(tmp_path, ["a", "b", "c", "d"])
    assert pq.read_table(tmp_path / "trace.parquet").num_rows == 4


def test_runs_are_found_by_what_users_type(tmp_path: Path) -> None:
    run = claim_version(tmp_path / "bench" / "model-sampler")
    write_json(run / "manifest.json", {})
    point_latest(run)
    assert find_run(str(run)) == find_run(str(run.parent)) == run.resolve()
    with pytest.raises(UsageError, match="does not exist"):
        find_run(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="there are runs inside it"):
        find_run(str(tmp_path / "bench"))
    sweep = tmp_path / "multirun" / "v001"
    for job in (0, 1, 10, 2):
        (sweep / str(job)).mkdir(parents=True)
        write_json(sweep / str(job) / "manifest.json", {"job": job})
    assert [json.loads((r / "manifest.json").read_text())["job"] for r in find_runs(str(sweep))] == [0, 1, 2, 10]
