"""Whatever a user types or writes into a configuration: an answer or one sentence, never a traceback."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rws_cli.cli import app
from rws_cli.config.catalog import GROUPS, choices
from rws_cli.config.keys import known_keys

TEXT = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])  # what a shell can hand over
KEYS = st.sampled_from(
    [*GROUPS, *known_keys(), "hydra.sweep.dir", "hydra.mode", "hydra/launcher", "guidance@sampler.guidance"]
)
PLAIN = st.sampled_from(
    ["0", "1", "-1", "1e999", "nan", "null", "true", "''", "[]", "{}", "[1,[2]]", "{a:1}", "1,2", "range(3)", "choice(a,b)", "${x}",
     "${oc.env:HOME}", "???", "a b", "é", "\\", "'", '"', "../..", "=", ",", "glob(*)", "interval(0,1)", "shuffle(1,2)", "sort(2,1)"]
)  # fmt: skip
CHOSEN = st.sampled_from(GROUPS).flatmap(lambda g: st.sampled_from(list(choices(g))).map(lambda c: f"{g}={c}"))
ASSIGNED = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}",
    st.sampled_from(["", "+", "++", "~"]),
    KEYS,
    PLAIN | st.text(TEXT, max_size=12),
)
OVERRIDES = st.lists(
    CHOSEN | ASSIGNED | st.text(TEXT, max_size=20).filter(lambda text: text not in ("-h", "--help")), max_size=4
)
RUNNER = CliRunner()


FLAGS = st.sampled_from(
    ["-m", "-r", "--multirun", "--cfg", "-cjob", "--resolve", "--config-dir", "--config-dir=.", "-cd=/", "--config-name=x",
     "--config-path=.", "--resume", "--resume=.", "--info", "--package", "--experimental-rerun=x", "--experimental", "-x", "--"]
)  # fmt: skip
ANY_COMMAND = st.sampled_from(
    ["run", "run", "run", "list", "show", "compare", "table", "report", "replay", "grade", "measure"]
)


def answered(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = RUNNER.invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert result.exit_code in (0, 2), (arguments, result.output)
    assert "Traceback" not in result.output
    if result.exit_code == 2 and "rws: " in result.output:
        assert len(result.output.partition("rws: ")[2].strip().splitlines()) == 1, result.output


@pytest.mark.slow
@settings(max_examples=200, deadline=timedelta(seconds=10), suppress_health_check=list(HealthCheck))
@given(ANY_COMMAND, st.lists(FLAGS, max_size=2), OVERRIDES)
@example("show", [], ["~nobody"])
def test_command_lines(command: str, flags: list[str], overrides: list[str]) -> None:
    answered([command, *(["--dry-run"] if command == "run" else []), *flags, *overrides])


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(OVERRIDES)
@example(["sampler.steps=1e400"])
@example(["benchmark.limit=99999999999999999999999"])
@example(["-m", "seed=range(0,1)"])
@example(["model.path='~nobody/x'"])
@example(["--resume", "~nobody"])
def test_overrides(overrides: list[str]) -> None:
    answered(["run", "--dry-run", *overrides])


YAML = st.text(TEXT, max_size=60) | st.sampled_from(
    ["{", "- a\n- b", "order: [", "a: b: c", "order: confidence\norder: random", "defaults:\n  - nowhere", "defaults: 3", "? x", "&a *a",
     "!!python/object/apply:os.system [ls]", "order: ${order}", "null", "3", "guidance: {kind: rws}", "\tx: 1", "steps: 0x1G", "a: &x [*x]"]
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(YAML)
@example("_target_: os.system")
def test_configuration_files(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sampler").mkdir()
        (Path(folder) / "sampler" / "mine.yaml").write_text(content)
        answered(["run", "--dry-run", "--config-dir", folder, "sampler=mine"])


COMMANDS = [
    "show", "report", "replay", "compare", "table", "pareto", "grade", "measure", "judge", "doctor", "calibrate", "list",
    "corpus",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("argument", ["", "nowhere", "/dev/null", "=", "a=b", "é" * 300, "sampler=rwss", "judge=none"])
def test_other_commands(command: str, argument: str) -> None:
    few = ["benchmark.limit=1"] if command == "calibrate" else []  # for one of these arguments is right
    answered([command, argument, *few])


@pytest.mark.parametrize("argument", ["", "nowhere", "=", "a=b", "sampler=rwss", "seed=x", "reward=none"])
def test_commands_that_would_load_or_send_something(argument: str) -> None:
    """What is right about these arguments would take its time: they come with one that is wrong."""
    answered(["generate", "a prompt", argument, "sampler.gen_length=0"])
    answered(["push", "nowhere", argument])
    answered(["report", "nowhere", "--figure", argument, "--png"])
