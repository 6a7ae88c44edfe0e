"""What is printed: sentences that say how to type it right, and text that stays text."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from support import write_run

from rws_cli.cli.base import one_sentence
from rws_cli.cli.jobs import job_result
from rws_cli.config.composing import compose
from rws_cli.config.hydra_errors import explain
from rws_cli.config.keys import unknown_key
from rws_cli.errors import UsageError, nearest, printable
from rws_cli.report.terminal import plain_console
from rws_cli.runs.folder import find_runs
from rws_cli.runs.progress import Progress


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        compose(*overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("model.path=~/models/x", """'model.path="~/models/x"'"""),
        ("label=R&D #1!", """'label="R&D #1!"'"""),
        ("benchmark.template={question}", """'benchmark.template="{question}"'"""),
        ("reward.template={{messages}}", """'reward.template="{{messages}}"'"""),
    ],
)
def test_an_override_that_cannot_be_read_is_shown_as_it_should_be_typed(override: str, advice: str) -> None:
    said = refused(override)
    assert said == f"{override} cannot be read: type {advice}."
    key, _, value = override.partition("=")
    assert OverridesParser.create().parse_override(*shlex.split(advice)).value() == value
    assert key in said


def test_values_of_a_sweep_without_m_are_told_both_ways_out() -> None:
    said = refused("seed=0,1")
    assert "add -m" in said
    assert """'seed="0,1"'""" in said


@pytest.mark.parametrize("name", ["optuna", "joblib", "submitit_slurm"])
def test_a_missing_plugin_is_named_with_its_extra(name: str) -> None:
    """As Hydra says it: optuna is not among what the tests install."""
    error = MissingConfigException(f"Could not find 'hydra/sweeper/{name}'", name)
    assert explain(error) == (f"hydra/sweeper={name} is not installed: pip install 'rws[{name.partition('_')[0]}]'.")
    assert refused("hydra/sweeper=optune").startswith("hydra/sweeper=optune is not known")


def test_settings_of_one_place_are_listed_once() -> None:
    said = refused("+foo=1")
    assert said.count("runtime") == 1
    assert said.count(" seed,") == 1


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("batch_size", "; did you mean runtime.batch_size?"),
        ("sampler.tempature", "; did you mean sampler.temperature?"),
        ("sampler.TEMPERATURE", "; did you mean sampler.temperature?"),
        ("sampler.lambda", ". Settings there: name, "),
        ("benchmark.n", ". Settings there: "),
        ("benchmark.memory_mb", ". Settings there: "),  # of a benchmark of another kind
    ],
)
def test_a_hint_is_of_the_same_place_or_the_same_name(key: str, hint: str) -> None:
    assert f"{key} is not a setting here{hint}" in unknown_key(key)


def test_upper_and_lower_case_are_alike_in_hints() -> None:
    assert nearest("RWS", ["random", "rws"]) == "; did you mean rws?"


@pytest.mark.parametrize("key", ["sampler.temperature", "sampler.guidance.strength", "benchmark.seconds"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_are_finite(key: str, value: str) -> None:
    more = ["benchmark=humaneval"] if key.startswith("benchmark") else []
    assert f"{key}={value} is out of range" in refused(*more, f"{key}={value}")


def test_brackets_and_escapes_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    plain_console(width=80).print("out[/x] o[red]p :smile:", soft_wrap=True)
    assert capsys.readouterr().out == "out[/x] o[red]p :smile:\n"
    assert printable("a\x1b]0;b\x07\n\x9b31m") == "a\ufffd]0;b\ufffd\n\ufffd31m"


def test_an_error_is_one_line_whatever_a_file_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), one_sentence():
        open("/no such\nfolder\x1b[31m/x")  # noqa: SIM115
    assert capsys.readouterr().err == "rws: /no such folder�[31m/x: No such file or directory\n"


def test_an_error_sentence_shows_no_escape(rws) -> None:
    result = rws("show", "a[/b]\x1b[31mred")
    assert result.exit_code == 2
    assert "a[/b]\ufffd[31mred does not exist" in result.output


def test_jobs_of_a_sweep_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    for name in ("rws/10", "rws/2", "confidence"):
        write_run(tmp_path / name, "rws", 0, {"a": 1.0})
    found = [run.relative_to(tmp_path.resolve()).as_posix() for run in find_runs(str(tmp_path))]
    assert found == ["confidence", "rws/2", "rws/10"]


def test_the_last_line_of_progress_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rws_cli.runs.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Progress(2, [], tmp_path / "run.log") as progress:
        progress.finished([{"grade": None}, {"grade": None}])
    assert (tmp_path / "run.log").read_text().count("2 of 2 examples") == 1


def test_a_job_returns_its_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"accuracy": 1, "cost": {"seconds": 0.5}, "god": "god_tokens"}
    monkeypatch.setattr("rws_cli.runs.folder.read_json", lambda path: metrics)
    assert job_result(compose(), tmp_path) == str(tmp_path)
    assert job_result(compose("objective=accuracy"), tmp_path) == 1.0
    assert job_result(compose("objective=cost.seconds"), tmp_path) == 0.5
    for wrong in ("god", "nothing", "cost"):
        with pytest.raises(UsageError, match=f"objective={wrong} is not a number"):
            job_result(compose(f"objective={wrong}"), tmp_path)


def test_a_sweep_of_seeds_that_change_nothing_is_said_once(rws) -> None:
    few = ["benchmark.limit=1", "reward=none"]
    said = rws("run", "--dry-run", "-m", *few, "sampler=confidence,margin", "seed=0,1,2").output
    assert said.count("one seed is enough") == 1
    assert "seed=1 gives sampler=confidence the same tokens as seed=0" in said
    assert "one seed" not in rws("run", "--dry-run", "-m", *few, "sampler=random,remdm_cap", "seed=0,1").output
