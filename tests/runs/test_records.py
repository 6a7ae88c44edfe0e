"""Run folders: versions claimed once, files whole, broken lines dropped."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import manifest_of, sample_of, write_run

from rws_cli.analysis.summary import summarize
from rws_cli.errors import RunError, UsageError, printable
from rws_cli.files import file_lock, write_json
from rws_cli.runs.folder import (
    claim_version,
    find_run,
    find_runs,
    newest,
    output_dir,
    point_latest,
    read_json,
    run_lock,
)
from rws_cli.runs.records import (
    ADDED,
    append_lines,
    drop_broken_line,
    drop_untraced,
    join_trace,
    read_finished,
    read_lines,
    read_samples,
    read_trace,
    trace_schema,
    write_trace_part,
)


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


@settings(deadline=None)
@given(samples=samples_strategy, cut=st.integers(0, 10_000))
def test_a_run_killed_in_a_line_loses_that_line_alone(tmp_path_factory, samples: list[dict], cut: int) -> None:
    run = tmp_path_factory.mktemp("run")
    append_lines(run / "samples.jsonl", samples)
    content = (run / "samples.jsonl").read_bytes()
    cut = cut % (len(content) + 1)
    (run / "samples.jsonl").write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert read_samples(run)[:whole] == samples[:whole]
    drop_broken_line(run / "samples.jsonl")
    assert read_samples(run) == samples[:whole]
    append_lines(run / "samples.jsonl", samples[whole:])
    assert (run / "samples.jsonl").read_bytes() == content


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    append_lines(tmp_path / "samples.jsonl", [sample_of("a", 1.0)])
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
        "changed_selection": [False],
        "remasked_at": [None],
        "near_tie": [False],
        "edited_from": [None],
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
    with pytest.raises(UsageError, match="it contains runs"):
        find_run(str(tmp_path / "bench"))
    sweep = tmp_path / "multirun" / "v001"
    for job in (0, 1, 10, 2):
        (sweep / str(job)).mkdir(parents=True)
        write_json(sweep / str(job) / "manifest.json", {"job": job})
    assert [json.loads((r / "manifest.json").read_text())["job"] for r in find_runs(str(sweep))] == [0, 1, 2, 10]


def test_latest_is_the_highest_version_where_a_copy_made_a_folder_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tmp_path / "bench" / "model-sampler"
    for _ in range(2):
        write_json(claim_version(parent) / "manifest.json", {})
    point_latest(parent / "v002")
    copy = tmp_path / "copy"
    shutil.copytree(parent, copy)  # which follows links, as cp -rL and scp -r do
    assert not (copy / "latest").is_symlink()
    write_json((newer := claim_version(copy)) / "manifest.json", {})
    point_latest(newer)
    assert "is a folder, not a link" in capsys.readouterr().err
    assert find_run(str(copy)) == find_run(str(copy / "latest")) == newer
    assert newest(copy / "latest" / "1" / "normalization.json") == newer / "1" / "normalization.json"
    assert output_dir(copy / "latest") == newer
    shutil.rmtree(copy / "latest")  # or the copy left links out
    assert find_run(str(copy)) == newer
    assert find_run(str(parent / "latest")) == (parent / "v002").resolve()  # a link is believed, whatever came after
    claim_version(parent)
    assert find_run(str(parent)) == (parent / "v002").resolve()


def test_a_sweep_is_the_newest_one_where_latest_is_a_folder(tmp_path: Path) -> None:
    for version, jobs in (("v001", 3), ("latest", 3), ("v002", 2)):
        for job in range(jobs):
            (tmp_path / version / str(job)).mkdir(parents=True)
            write_json(tmp_path / version / str(job) / "manifest.json", {})
    assert find_runs(str(tmp_path / "latest")) == [tmp_path / "v002" / "0", tmp_path / "v002" / "1"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with run_lock(tmp_path):
        assert (tmp_path / ".lock").exists()
    with file_lock(tmp_path / "other"):
        pass
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(f"{tmp_path} has no locks ({os.strerror(code)})" in line for line in said)


def test_a_held_lock_is_refused_and_a_broken_disk_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(UsageError, match=f"by another process \\(process {os.getpid()}"),
        run_lock(tmp_path),
    ):
        pass

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output"), run_lock(tmp_path):
        pass


def test_a_lock_that_is_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"), run_lock(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = [".samples.jsonl.4711", ".manifest.json.0123456789ab", ".trace.parquet", ".metrics.json.7"]
    for name in [*left, ".notes", "samples.jsonl"]:
        (tmp_path / name).write_text("x")
    with run_lock(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".notes", "samples.jsonl"]


def test_a_disk_that_is_full_is_left_without_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "manifest.json", {})
    assert list(tmp_path.iterdir()) == []


def manifest(tmp_path: Path, **fields: Any) -> Path:
    run = write_run(tmp_path / "run", "rws", 0, {"a": 1.0})
    record = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(record | fields))
    return run / "manifest.json"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": 3}, "schema: it is 3, but this rws reads at most 2: update rws"),
        ({"status": "well"}, "status: Input should be 'running', 'finished', 'failed' or 'interrupted'"),
        ({"failed": [1]}, "failed: Input should be a valid dictionary"),
        ({"more": float("inf")}, "expected value at line 1"),
        ({"machine": {"x": json.loads("[" * 50 + "]" * 50)}}, "machine: it is nested too deeply"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    file = manifest(tmp_path, **fields)
    with pytest.raises(RunError) as refused:
        read_json(file)
    assert str(refused.value).startswith(f"{file} cannot be read: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["benchmark", "model"])
def test_a_name_in_a_manifest_leads_nowhere(tmp_path: Path, name: str) -> None:
    config = json.loads(manifest(tmp_path).read_text())["config"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest_of(config | {name: {"name": "../../../E"}})))
    with pytest.raises(RunError, match=rf"config\.{name}\.name"):
        read_json(tmp_path / "run" / "manifest.json")


def test_a_wrong_line_is_named_with_its_field(tmp_path: Path) -> None:
    lines = [
        sample_of("a", 1.0),
        sample_of("b", 1.0, order={"god_tokens": "x", "kendall_tau": 0.5}),
        sample_of("c", 0.0),
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=r"samples.jsonl cannot be read at line 2: order.god_tokens: Input should be"):
        read_samples(tmp_path)
    (tmp_path / "samples.jsonl").write_text(json.dumps(lines[0]) + "\n3\n")
    with pytest.raises(RunError, match="at line 2: Input should be a valid dictionary"):
        read_samples(tmp_path)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.json")
    (tmp_path / "samples.jsonl").symlink_to("/dev/zero")
    for read in (lambda: read_json(tmp_path / "metrics.json"), lambda: read_samples(tmp_path)):
        with pytest.raises(RunError, match="not a regular file"):
            read()
    with (tmp_path / "failures.jsonl").open("wb") as file:
        file.truncate(10**12)  # of nothing but zeros, without a line break
    with pytest.raises(RunError, match="more than"):
        read_lines(tmp_path / "failures.jsonl")


def test_a_trace_of_another_form_is_one_sentence(tmp_path: Path) -> None:
    for wrong, said in (
        ({"step": [1, 2]}, "the lists of column"),
        ({"position": [-1]}, "column position has a number below 0"),
        ({"token": [None]}, "the lists of column token have gaps"),
        ({"confidence": [float("nan")]}, "column confidence has a number that is not finite"),
    ):
        pq.write_table(pa.Table.from_pylist([trace_row("a", 0) | wrong], trace_schema()), tmp_path / "trace.parquet")
        with pytest.raises(RunError, match=said):
            read_trace(tmp_path)
    pq.write_table(pa.table({"id": ["a"], "step": ["x"]}), tmp_path / "trace.parquet")
    with pytest.raises(RunError, match="it has no column position"):
        read_trace(tmp_path)


def test_a_trace_from_before_a_column_was_added_is_read_and_gone_on_with(tmp_path: Path) -> None:
    old = {key: value for key, value in trace_row("a", 0).items() if key not in ADDED}
    schema = pa.schema([field for field in trace_schema() if field.name in old])
    pq.write_table(pa.Table.from_pylist([old], schema=schema), tmp_path / "trace.parquet")
    append_lines(tmp_path / "samples.jsonl", [sample_of("a", 1.0)])
    assert read_trace(tmp_path) == [old]
    drop_untraced(tmp_path)
    assert [sample["id"] for sample in read_samples(tmp_path)] == ["a"]
    write_trace_part(tmp_path, [trace_row("b", 1)])
    join_trace(tmp_path, ["a", "b"])
    first, second = read_trace(tmp_path)
    assert first == old | dict.fromkeys(ADDED)
    assert second == trace_row("b", 1)


@pytest.mark.parametrize("lines", [0, 1])
def test_samples_that_the_metrics_do_not_count_are_refused(tmp_path: Path, lines: int) -> None:
    run = write_run(tmp_path / "run", "rws", 0, {"a": 1.0, "b": 0.0})
    samples = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    write_json(run / "metrics.json", summarize(read_samples(run)) | {"measures": {}})
    assert len(read_finished(run)[0]) == 2
    (run / "samples.jsonl").write_text("".join(samples[:lines]))
    with pytest.raises(RunError, match=f"has {lines} examples and metrics.json counts 2"):
        read_finished(run)


def test_escapes_in_a_label_are_gone_when_it_is_read(tmp_path: Path) -> None:
    config = json.loads(manifest(tmp_path).read_text())["config"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest_of(config | {"label": "a\x1b[31mb"})))
    assert read_json(tmp_path / "run" / "manifest.json")["config"]["label"] == "a�[31mb"


def test_terminal_escapes_are_not_printed() -> None:
    assert printable("a\x1b[31mb\x9b2J\u202ec\td\ne é 李") == "a�[31mb�2J�c\td\ne é 李"
