"""Curves against cost: points, frontiers, what is compared at equal cost, and the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import manifest_of, sample_of

from rws_cli.analysis.curves import Curve, Point, at_cost, curves_of, families, frontier
from rws_cli.cli.launching import sweeps
from rws_cli.config.catalog import CONF, choices
from rws_cli.config.check import check
from rws_cli.config.composing import unchecked
from rws_cli.config.families import FAMILIES, by_family, family
from rws_cli.errors import UsageError
from rws_cli.runs.reading import read_run


def point(tokens: float, *right: float) -> Point:
    values = np.array(right)
    return Point("", {"tokens": tokens}, "tokens", {"accuracy": values})


CURVE = Curve("t", "s", "orders", "", [point(1, 0, 0), point(2, 1, 0), point(3, 0, 0), point(8, 1, 1), point(9, 1, 0)])


def test_the_frontier_is_what_no_cheaper_point_beats() -> None:
    assert [p.cost["tokens"] for p in frontier(CURVE.points, "accuracy")] == [1, 2, 8]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0.5, None), (1, [0, 0]), (2, [1, 0]), (4, [1, 0.5]), (8, [1, 1]), (100, [1, 1])],
)
def test_values_at_a_cost_lie_between_two_of_the_frontier(tokens: float, expected: list[float] | None) -> None:
    found = at_cost(CURVE, tokens, "accuracy")
    assert (found is None) if expected is None else found.tolist() == pytest.approx(expected)


def save(folder: Path, name: str, right: dict[str, bool], tokens: int, calls: int = 0, **settings: object) -> Path:
    """A finished run's folder with one sampler setting, `n`, and what each example cost."""
    folder.mkdir(parents=True)
    sampler = {"name": name, "schedule": {"kind": "fixed"}, "search": {"kind": "none"}, "remasking": {"kind": "none"}}
    config = {
        "seed": 0,
        "sampler": sampler | settings,
        "benchmark": {"name": "b"},
        "model": {"name": "m"},
        "reward": {"name": "r"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest_of(config, config_hash=name)))
    lines = []
    for i, yes in right.items():
        sample = sample_of(i, float(yes), reward=2.0 * yes)
        sample["cost"] |= {"mdm_tokens": tokens, "reward_calls": calls, "reward_tokens": 10 * calls}
        lines.append(sample)
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_curves_join_a_samplers_settings_and_count_both_models_tokens(tmp_path: Path) -> None:
    yes = dict.fromkeys("abcd", True)
    runs = [
        save(tmp_path / "000-0", "rws", yes, 100, calls=4, tokens_per_step=1),
        save(tmp_path / "000-1", "rws", yes | {"a": False}, 60, tokens_per_step=2),
        save(tmp_path / "001-0", "best_of_n", dict.fromkeys("abcd", False), 50),
        save(tmp_path / "001-10", "best_of_n", yes | {"b": False, "c": False}, 200, n=2),
    ]
    rws, reference = curves_of(list(map(read_run, runs)), ["best_of_n"])
    assert [p.cost["tokens"] for p in rws.points] == [60, 140]
    assert [p.settings for p in rws.points] == ["tokens_per_step=2", "tokens_per_step=1"]
    assert rws.paper == "RWS, 2509.00707"
    assert [p.value for p in rws.points] == [{"accuracy": 0.75, "reward": 1.5}, {"accuracy": 1.0, "reward": 2.0}]
    share = np.log(140 / 50) / np.log(200 / 50)
    assert rws.points[1].differences["best_of_n"].mean == pytest.approx(1 - 0.5 * share)
    assert all(p.differences == {} for p in reference.points)
    with pytest.raises(UsageError, match="--against fk is none of the samplers here: choose from rws, best_of_n"):
        curves_of(list(map(read_run, runs)), ["best_of_n", "fk"])


def test_each_sampler_is_compared_with_three_at_any_cost(tmp_path: Path) -> None:
    """Two settings each of confidence (right: 0, then all), dus (1 of 4), left_to_right (all), and rws (half)."""
    yes = dict.fromkeys("abcd", True)
    no, half = dict.fromkeys("abcd", False), {"a": True, "b": True, "c": False, "d": False}
    right = {"confidence": (no, yes), "left_to_right": (yes, yes), "dus": (no | {"a": True},) * 2, "rws": (half, half)}
    runs = [
        save(tmp_path / f"{name}-{n}", name, few, 100 * (n + 1), n=n)
        for name, both in right.items()
        for n, few in enumerate(both)
    ]
    for axis, costs in (("tokens", [100, 200]), ("mdm_passes", [4, 4])):
        curves = {curve.label: curve for curve in curves_of(list(map(read_run, runs)), axis=axis)}
        assert [p.spent for p in curves["rws"].points] == costs
        means = [{name: d.mean for name, d in p.differences.items()} for p in curves["rws"].points]
        if axis == "tokens":
            assert means == [
                {"confidence": 0.5, "dus": 0.25, "left_to_right": -0.5},
                {"confidence": -0.5, "dus": 0.25, "left_to_right": -0.5},
            ]
            assert curves["rws"].points[0].differences["left_to_right"].interval == pytest.approx((-1.0, 0.0))
            assert "left_to_right" not in curves["left_to_right"].points[0].differences
    with pytest.raises(
        UsageError, match="--cost token is not known: choose from tokens, mdm_passes, mdm_rows, seconds"
    ):
        curves_of(list(map(read_run, runs)), axis="token")


def test_every_sampler_has_a_family() -> None:
    """The one of its whole configuration, which files alone also show."""
    names = list(choices("sampler"))
    listed = {name: each for each, some in by_family(names).items() for name in some}
    assert set(listed) == set(names)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in ("dream_entropy", "entrgi", "r3", "llada2", "credit", "info_gain", "freedave"):
            sampler = OmegaConf.to_container(compose("config", [f"sampler={name}"]).sampler)
            assert isinstance(sampler, dict)
            assert family({str(key): value for key, value in sampler.items()}) == listed[name]
    assert {listed[name] for name in ("confidence", "dream_entropy", "left_to_right")} == {"orders"}
    assert {listed[name] for name in ("rws", "constant_scale", "entrgi")} == {"guidance"}
    assert {listed[name] for name in ("threshold", "klass", "daedal")} == {"schedules"}
    assert {listed[name] for name in ("r3", "wino", "remdm_cap", "llada2_1")} == {"remasking"}
    assert {listed[name] for name in ("fk", "best_of_n")} == {"search"}


def test_families_are_in_one_order() -> None:
    curves = [Curve("t", name, name, "", []) for name in ("search", "schedules", "orders")]
    assert families(curves) == ["orders", "schedules", "search"]
    assert [name for name in FAMILIES if name in ("orders", "schedules", "search")] == families(curves)


def test_a_sweep_draws_itself_and_can_be_drawn_again(rws, tmp_path: Path, small: list[str]) -> None:
    swept = ["sampler=confidence,best_of_n", "sampler.temperature=1", "plot=pareto"]
    result = rws("run", "-m", *small[:-1], "sampler.tokens_per_step=6,12", *swept)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "outputs" / "multirun" / "v001"
    markdown, picture = (folder / "pareto.md").read_text(), (folder / "pareto.svg").read_bytes()
    assert markdown.strip() in result.output
    with (folder / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["settings"] for row in rows if row["sampler"] == "confidence"] == [
        "tokens_per_step=12",
        "tokens_per_step=6",
    ]
    assert [float(row["mdm_passes"]) for row in rows] == [3, 6, 12, 24]
    again = rws("pareto", str(folder))
    assert again.output.strip() == markdown.strip()
    assert (folder / "pareto.svg").read_bytes() == picture
    assert "− confidence" in markdown
    passes = rws("pareto", str(folder), "--against", "confidence,best_of_n", "--cost", "mdm_passes")
    assert "passes through the model" in passes.output
    assert "| search | best_of_n | 0 [0, 0] (12), 0 [0, 0] (24) |" in passes.output
    wrong = rws("pareto", str(folder), "--against", "fk")
    assert wrong.exit_code == 2
    assert "none of the samplers here" in wrong.output


@pytest.mark.slow
def test_every_line_of_the_pareto_experiment_checks() -> None:
    """Each job of each line is a configuration that would run."""
    OmegaConf.register_new_resolver("rws_sweep", lambda output: output, replace=True)
    lines = sweeps(["-m", "benchmark.limit=7", "+experiment=pareto"])
    assert [line[-2:] for line in lines] == [["benchmark.limit=7", "+experiment=pareto"]] * len(lines)
    assert [line[:2] for line in lines] == [["-m", "~sweeps"]] * len(lines)
    seen, tasks, folders = set(), set(), set()
    for line in lines:
        folders.add(line[2])
        names = next(part for part in line if part.startswith("sampler=")).removeprefix("sampler=").split(",")
        rest = [part for part in line[3:] if not part.startswith("sampler=")]
        first = [part if "[" in part else part.split(",")[0] for part in rest]
        for name in names:
            config = check(unchecked("~sweeps", f"sampler={name}", *first))
            seen.add(config.sampler.name)
            tasks.add(config.benchmark.name)
            assert config.benchmark.limit == 7
            assert config.plot == "pareto"
    others = {"autoregressive", "recorded_scale", "daedal"}  # for another model, a finished run, a length of its own
    others |= {
        name for name in choices("sampler") if name.startswith(("sdar", "llada2", "fast_dllm"))
    }  # rules of others here
    assert set(choices("sampler")) - seen == others - {"llada2_1"}
    assert tasks == {"arithmetic"}
    assert len(folders) == len(lines)


def test_an_experiment_of_ones_own_can_list_sweeps(rws, tmp_path: Path, small: list[str]) -> None:
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "two.yaml").write_text(
        "# @package _global_\nhydra: { mode: MULTIRUN }\nsweeps:\n"
        "  - - sampler=confidence seed=0,1\n    - sampler=threshold sampler.schedule.threshold=0.5\n"
    )
    given = [part for part in small if "tokens_per_step" not in part]
    result = rws("run", "--config-dir", "mine", "+experiment=two", *given, "benchmark.limit=2")
    assert result.exit_code == 0, result.output
    jobs = sorted(path.parent.name for path in (tmp_path / "outputs" / "multirun" / "v001").glob("*/metrics.json"))
    assert jobs == ["000-0", "000-1", "001-0"]
    assert "threshold" in result.output
    missing = rws("run", "+experiment=nothing")
    assert missing.exit_code == 2
