"""Replayed scales: what each way of handing them out does, and a run that replays itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import samples_of

from rws_cli.guidance.recorded_scale import assign_scales, scale_at
from rws_cli.runs.records import read_trace

RECORDED = {"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0}, "c": {0: 5.0, 2: 4.0}}


def test_each_way_to_hand_scales_out() -> None:
    given = {how: assign_scales(RECORDED, how, 0) for how in ("own", "constant", "schedule", "shuffled")}
    assert given["own"] == RECORDED
    assert given["constant"] == {i: {0: 3.0} for i in "abc"}
    assert given["schedule"] == {i: {0: 3.0, 1: 2.0, 2: 4.0} for i in "abc"}
    assert sorted(map(repr, given["shuffled"].values())) == sorted(map(repr, RECORDED.values()))
    assert all(given["shuffled"][i] != RECORDED[i] for i in RECORDED)


def test_unrecorded_steps_take_the_last_one_before() -> None:
    assert [scale_at({2: 5.0, 4: 6.0}, step) for step in range(6)] == [5.0, 5.0, 5.0, 5.0, 6.0, 6.0]


@pytest.fixture
def steered(rws, small: list[str], tmp_path: Path) -> Path:
    assert rws("run", *small, "sampler.guidance.strength=3").exit_code == 0
    return next(tmp_path.glob("outputs/*/*-rws/v001"))


def test_a_run_that_replays_its_own_scales_repeats_itself(rws, small: list[str], steered: Path, tmp_path: Path) -> None:
    result = rws("run", *small, "+experiment=matched_temperature", f"sampler.guidance.run={steered}")
    assert result.exit_code == 0, result.output
    own, constant, schedule, shuffled = (tmp_path / "outputs" / "multirun" / "v001" / str(n) for n in range(4))
    assert [s["tokens"] for s in samples_of(own)] == [s["tokens"] for s in samples_of(steered)]
    assert [row["scale"] for row in read_trace(own)] == [row["scale"] for row in read_trace(steered)]
    everything = {r for row in read_trace(constant) for r in row["scale"]}
    assert len(everything) == 1
    rows = read_trace(schedule)
    assert [row["scale"] for row in rows] == [rows[0]["scale"]] * len(rows)
    assert len(set(rows[0]["scale"])) > 1
    before = {row["id"]: row["scale"] for row in read_trace(steered)}
    after = {row["id"]: row["scale"] for row in read_trace(shuffled)}
    assert before != after
    assert sorted(before.values()) == sorted(after.values())
    assert all(s["cost"]["reward_calls"] == 0 for run in (own, constant) for s in samples_of(run))


def test_what_cannot_be_replayed_is_one_sentence(rws, small: list[str], steered: Path, tmp_path: Path) -> None:
    base = ("run", *small, "sampler=recorded_scale")
    assert "sampler.guidance.run is not set" in rws(*base).output
    other = rws(*base, f"sampler.guidance.run={steered}", "sampler.tokens_per_step=3", "seed=4")
    assert other.exit_code == 2
    assert "to apply its scales, set sampler.tokens_per_step=6, seed=0" in other.output
    assert rws("run", *small, "sampler=confidence").exit_code == 0
    plain = next(tmp_path.glob("outputs/*/*-confidence/v001"))
    assert "must be a run of sampler=rws" in rws(*base, f"sampler.guidance.run={plain}").output
