"""Old names of commands, settings, choices, figures and records are taken for the new ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import samples_of

from rws_cli import registry
from rws_cli.config.check import check_recorded
from rws_cli.config.composing import compose, unchecked
from rws_cli.config.identity import config_hash, resolved
from rws_cli.config.renamed import SCHEMA, TABLE, rename_record, rename_settings, renamed_override
from rws_cli.runs.reading import read_run
from rws_cli.runs.upgrade import read_manifest, upgrade

OLD = Path(__file__).parents[1] / "data" / "640fd19"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sampler=temperature", "sampler=constant_scale"),
        ("sampler=rws,temperature,replay", "sampler=rws,constant_scale,recorded_scale"),
        ("guidance=temperature", "guidance=constant_scale"),
        ("+sampler.review.kind=r3", "+sampler.remasking.kind=r3"),
        ("sampler.review.rounds=2", "sampler.remasking.rounds=2"),
        ("~draw", "~plot"),
        ("draw=pareto", "plot=pareto"),
        ("runtime.backend=here", "runtime.backend=local"),
        ("benchmark.answers=10", "benchmark.completions=10"),
        ("sampler.schedule.fill=0.5", "sampler.schedule.share=0.5"),
        ("reward.parts=step", "reward.unit=step"),
        ("reward.parts.a.path=x", "reward.components.a.path=x"),
        ("reward@reward.parts.a=verifier", "reward@reward.components.a=verifier"),
        ("reward@reward.part=verifier", "reward@reward.component=verifier"),
        ("metric.mine.module=x.py", "++metric.mine.module=x.py"),
        ("sampler.temperature=0.5", "sampler.temperature=0.5"),
        ("sampler.guidance.fill=sample", "sampler.guidance.fill=sample"),
        ("label=temperature", "label=temperature"),
        ("benchmark.text='draw=pareto, sampler=replay'", "benchmark.text='draw=pareto, sampler=replay'"),
    ],
)
def test_overrides(old: str, new: str) -> None:
    advice: list[tuple[str, str]] = []
    assert renamed_override(old, lambda *names: advice.append(names)) == new
    assert len(advice) == (old != new and not old.startswith("metric"))


def test_an_old_command_line_is_what_the_new_one_is() -> None:
    old = compose("sampler=temperature", "reward=process", "reward.parts=step", "draw=pareto", "benchmark.answers=1")
    new = compose("sampler=constant_scale", "reward=process", "reward.unit=step", "plot=pareto")
    assert resolved(old) == resolved(new)


def test_old_names_in_files_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "mine.yaml").write_text(
        "defaults: [_base, _self_]\nname: mine\nreview: { kind: r3, rounds: 2 }\n", encoding="utf-8"
    )
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /sampler: temperature\ndraw: pareto\n"
        "table: { title: t, columns: [accuracy, other_sets] }\n",
        encoding="utf-8",
    )
    composed = unchecked("+experiment=mine", config_dir=str(tmp_path))
    assert composed.sampler.guidance.kind == "constant_scale"
    assert composed.plot == "pareto"
    assert list(composed.table.columns) == ["accuracy", "changed_selections"]
    composed = unchecked("sampler=mine", config_dir=str(tmp_path))
    assert (composed.sampler.remasking.kind, composed.sampler.remasking.rounds) == ("r3", 2)
    assert "review" not in composed.sampler


def test_one_line_of_advice_per_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rws_cli", "run", "--dry-run"]
    command += ["sampler=temperature", "draw=pareto", "benchmark.limit=1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == [
        "rws: sampler=temperature has been renamed: use sampler=constant_scale",
        "rws: draw=pareto has been renamed: use plot=pareto",
    ]


def test_old_commands_and_figures(rws, tmp_path: Path) -> None:
    shutil.copytree(OLD / "finished", tmp_path / "finished")
    result = rws("mark", "finished")
    assert result.exit_code == 0, result.output
    assert "grades changed: 0" in result.output
    assert rws("list", "sampler", "replay").exit_code == 0
    written = rws("report", "finished", "--png", "--figure", "course")
    assert written.output.strip().splitlines()[-1].endswith("by_step.png")


def test_the_table_is_in_order() -> None:
    """No new name is an old one too, and no schema is later than today's."""
    for kind in {row.kind for row in TABLE}:
        rows = [row for row in TABLE if row.kind == kind]
        assert not {row.old for row in rows} & {row.new for row in rows}
        assert all(1 < row.since <= SCHEMA for row in rows)


def test_records_of_an_old_schema_only() -> None:
    old = {"id": "a", "mark": {"correct": True}, "steering": {"other_sets": 0.5}, "cost": {"reward_hits": 1}}
    new = {
        "id": "a",
        "grade": {"correct": True},
        "guidance": {"changed_selections": 0.5},
        "cost": {"reward_cache_hits": 1},
    }
    assert rename_record("samples.jsonl", json.loads(json.dumps(old)), 1) == new
    assert list(rename_record("samples.jsonl", json.loads(json.dumps(old)), 1)) == list(new)
    assert rename_record("samples.jsonl", json.loads(json.dumps(old)), SCHEMA) == old
    mixed = {"mark": 1, "grade": 2}
    assert rename_record("samples.jsonl", dict(mixed), 1) == mixed  # nothing is overwritten
    entries = {"marks_before": [{"mark": None, "version": 1}]}
    assert rename_record("samples.jsonl", entries, 1) == {"grades_before": [{"grade": None, "version": 1}]}


@pytest.mark.parametrize("value", [None, 3, "text", [], {"sampler": None}, {"sampler": 3, "table": 5, "metric": []}])
def test_a_strangers_configuration_breaks_nothing(value: object) -> None:
    rename_settings(value)
    rename_record("samples.jsonl", value, 1)


def test_a_setting_of_a_users_part_keeps_its_name() -> None:
    """tests/outside has a reward with a setting `part`, which was a setting of reward=process."""
    registry.set_folders([str(Path(__file__).parents[1] / "outside")])
    try:
        assert renamed_override("reward@reward.part=verifier", lambda *names: None) == "reward@reward.part=verifier"
        config = {"reward": {"kind": "brief", "part": {}}, "judge": {"reward": {"kind": "process", "part": {}}}}
        rename_settings(config)
        assert config == {
            "reward": {"kind": "brief", "part": {}},
            "judge": {"reward": {"kind": "process", "component": {}}},
        }
    finally:
        registry.set_folders([])


def test_an_old_run_has_the_hash_that_it_would_have_now() -> None:
    for run in (OLD / "finished", OLD / "sweep" / "0", OLD / "sweep" / "1"):
        raw = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        manifest = read_manifest(run)
        assert manifest["config_hash_before"] == raw["config_hash"] != manifest["config_hash"]
        assert manifest["config_hash"] == config_hash(resolved(check_recorded(raw["config"])))
        again = compose(*raw["overrides"], "output=outputs")
        assert config_hash(resolved(again)) == manifest["config_hash"]


def test_an_upgraded_run_reads_the_same(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / "finished", tmp_path / "run"))
    before = read_run(run, traced=True)
    upgrade(run)
    after = read_run(run, traced=True)
    assert after.samples == before.samples
    assert after.metrics == before.metrics
    assert after.trace == before.trace
    assert after.manifest == before.manifest | {"schema": SCHEMA}
    assert {"grade", "completion"} <= samples_of(run)[0].keys()
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    upgrade(run)
    assert files == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_an_upgrade_that_is_interrupted_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(shutil.copytree(OLD / "finished", tmp_path / "whole"))
    upgrade(whole)
    for number in range(4):
        run = Path(shutil.copytree(OLD / "finished", tmp_path / f"run{number}"))
        calls = []

        def replace(a: object, b: object, number: int = number, calls: list[object] = calls) -> None:
            calls.append(b)
            if len(calls) > number:
                raise KeyboardInterrupt
            shutil.move(str(a), str(b))

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", replace)
            with pytest.raises(KeyboardInterrupt):
                upgrade(run)
        upgrade(run)
        for name in ("manifest.json", "samples.jsonl", "metrics.json"):
            assert (run / name).read_bytes() == (whole / name).read_bytes()
