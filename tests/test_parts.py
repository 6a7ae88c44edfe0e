"""Kinds in files of their own, and words that must not become one. CONTRIBUTING.md's parts run in test_contributing.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rws_cli.benchmarks
import rws_cli.decoding
import rws_cli.models
import rws_cli.rewards
from rws_cli import parts
from rws_cli.config import compose
from rws_cli.errors import UsageError

PACKAGES = {
    p.__name__.split(".")[1]: p for p in (rws_cli.benchmarks, rws_cli.decoding, rws_cli.models, rws_cli.rewards)
}
SETTINGS = """
from dataclasses import dataclass
from rws_cli.schema import setting

@dataclass
class Settings:
    name: str
    kind: str
    words: int = setting("words of a good answer", min=1)
"""


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Write a module as if it stood in the package."""
    before = set(sys.modules)

    def write_(name: str, source: str) -> None:
        folder, module = name.split("/")
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{module}.py").write_text(source)

    for folder, package in PACKAGES.items():
        package.__path__.append(str(tmp_path / folder))
    yield write_
    for folder, package in PACKAGES.items():
        package.__path__.remove(str(tmp_path / folder))
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        compose(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


MODULES = {
    "benchmarks": "arithmetic base code countdown data jail keywords mathematics prompt sandbox sudoku sudoku4",
    "decoding": "canvas guidance loop noise orders prediction protocols record replay review schedules search",
    "models": "base cache causal checkpoint compiled dream llada masked_lm sharded",
    "rewards": "base classifier composite controls gradient prefix process scorer",
}


@pytest.mark.parametrize("folder", MODULES)
def test_the_modules_that_parts_are_made_of_are_no_parts(folder: str) -> None:
    for module in MODULES[folder].split():
        assert importlib.util.find_spec(f"rws_cli.{folder}.{module}")
        assert not [role for role, its in parts.ROLES.items() if its.package == folder and parts.known(role, module)]


NOT_PARTS = ["base", "controls", "__init__", "..cli", "os", "a.b", "rewards/base", "length-2", "", "42"]


@pytest.mark.parametrize("word", NOT_PARTS)
def test_other_words_and_modules_are_not_known(word: str) -> None:
    assert f"reward.kind={word} is not known: choose from none, classifier" in refused(f"reward.kind='{word}'")
    assert "is not known" in refused(f"model.kind='{word}'")
    assert "is not known" in refused(f"sampler.order='{word or 'guidance'}'")
    assert parts.find("order", word) is None


def test_a_module_without_the_agreed_names_is_not_run(write, tmp_path: Path) -> None:
    write("rewards/half", f"open({str(tmp_path / 'ran')!r}, 'w')\n{SETTINGS}")
    assert "reward.kind=half is not known" in refused("reward.kind=half")
    assert not (tmp_path / "ran").exists()
    write("rewards/whole", f"{SETTINGS}\ndef make(settings, benchmark, seed): ...\n")
    assert "did you mean whole?" in refused("reward.kind=hole")
    assert "sampler.order=whole is not known" in refused("sampler.order=whole")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def make(:\n", "half.py cannot be imported: SyntaxError"),
        ("import nowhere\nSettings = make = None\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("Settings = make = 1 / 0\n", "ZeroDivisionError"),
        ("Settings = make = None\n", "Settings must be a dataclass"),
        (SETTINGS.replace("    kind: str\n", "") + "make = None\n", "Settings lacks kind"),
    ],
)
def test_a_broken_module_gets_one_sentence(write, rws, source: str, said: str) -> None:
    write("rewards/half", source)
    result = rws("run", "reward.kind=half")
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def test_its_settings_are_held_to_its_schema(write, rws, tmp_path: Path) -> None:
    write("rewards/length", f"{SETTINGS}\ndef make(settings, benchmark, seed): ...\n")
    (tmp_path / "mine" / "reward").mkdir(parents=True)
    yaml = tmp_path / "mine" / "reward" / "length.yaml"
    for line, said in (
        ("words: 0", "reward.words=0 is out of range: it must be at least 1"),
        ("words: many", "reward.words=many has the wrong type: a whole number"),
        ("wordz: 3", "reward.wordz is not a setting here; did you mean reward.words"),
        ("", "reward.words is not set"),
    ):
        yaml.write_text(f"# Short answers\nname: length\nkind: length\n{line}\n")
        result = rws("run", "--config-dir", str(tmp_path / "mine"), "reward=length")
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_what_only_built_in_families_can_do_is_refused(write) -> None:
    write("models/mine", "FAMILY = None\n")
    assert compose("model.kind=mine").model.kind == "mine"
    for override in ("runtime.compile=true", "runtime.cache=prefix", "sampler=wino", "runtime.backend=tensor_parallel"):
        assert "model.kind=mine" in refused("model.kind=mine", override)


def test_a_schedule_says_what_it_reads(write) -> None:
    settings = SETTINGS.replace("    name: str\n", "").replace('setting("words of a good answer", min=1)', "1")
    for name, constant in (("counts", "READS_STEPS = True"), ("takes_back", "MASKS_AGAIN = True")):
        write(f"decoding/{name}", f"{settings}\n{constant}\ndef make(sampler): ...\n")
    given = ["sampler=confidence", "sampler.schedule.kind=counts", "sampler.tokens_per_step=2"]
    assert compose(*given).sampler.schedule.words == 1
    given[1] = "sampler.schedule.kind=takes_back"
    assert "takes as many steps as it needs" in refused(*given)
    assert "may still change" in refused(*given[:2], "sampler.eos=stop")
