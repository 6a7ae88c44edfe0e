"""Kinds in files of their own, and words that must not become one. CONTRIBUTING.md's parts run in test_contributing.py."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rws_cli.decoding
import rws_cli.models
import rws_cli.rewards
from rws_cli import parts
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.rewards import load_reward

PACKAGES = {p.__name__.split(".")[1]: p for p in (rws_cli.decoding, rws_cli.models, rws_cli.rewards)}
SETTINGS = """
from dataclasses import dataclass
from rws_cli.config.schema import setting

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


WRAPPER = """
from dataclasses import dataclass
from typing import Any
from rws_cli.rewards import load_reward
from rws_cli.rewards.base import Candidate, Reward, Scores
from rws_cli.config.schema import setting

@dataclass
class Settings:
    name: str
    kind: str
    part: Any = setting("the reward that is halved"{role})

class Halved(Reward):
    statistics = None

    def __init__(self, settings, benchmark, seed):
        self.part = load_reward(settings.part, benchmark, seed, "reward.part")

    def score(self, candidates: list[Candidate]) -> Scores:
        found = self.part.score(candidates)
        return Scores([value / 2 for value in found.values], found.tokens)

make = Halved
"""


@pytest.mark.parametrize("role", ["", ', role="reward"'], ids=["by its form", "by its role"])
def test_a_reward_of_ones_own_may_hold_another(write, rws, small: list[str], tmp_path: Path, role: str) -> None:
    """What it holds is typed, checked and pinned like the parts of a built-in reward."""
    write("rewards/halved", WRAPPER.replace("{role}", role))
    yaml = "# Half of another reward\ndefaults:\n  - /reward@part: tiny\n  - _self_\nname: halved\nkind: halved\n"
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "halved.yaml").write_text(yaml)
    options = ["--config-dir", str(tmp_path / "conf"), *small, "sampler=confidence"]

    def scored(*reward: str) -> tuple[dict, list[float]]:
        assert (result := rws("run", *options, *reward)).exit_code == 0, result.output
        run = max(tmp_path.glob("outputs/sudoku/small-confidence/v*"))
        samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        return json.loads((run / "manifest.json").read_text())["sources"], [sample["reward"] for sample in samples]

    own, halves = scored("reward=halved")
    tiny, whole = scored("reward=tiny")
    assert halves == pytest.approx([score / 2 for score in whole])
    assert own["reward.part"] == tiny["reward"]
    for mistake, words in (
        ("reward.part.batch_size=0", "reward.part.batch_size=0 is out of range"),
        ("reward.part.batchsize=1", "reward.part.batchsize is not a setting here"),
        ("reward.part.path=/nowhere", "reward.part.path=/nowhere does not exist"),
        ("reward@reward.part=none", "reward.part.kind=none is not known"),
        ("reward.part.trust_remote_code=true", "pin it with reward.part.revision"),
    ):
        prefix = "+" if "batchsize" in mistake else ""
        result = rws("run", "--dry-run", *options, "reward=halved", prefix + mistake)
        assert (result.exit_code, words in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("lambda *_: 1 / 0", "cannot be made: ZeroDivisionError"),
        ("lambda *_: object()", "makes a object without statistics, score, forget"),
        ("lambda *_: type('Odd', (Reward,), {'statistics': {'mean': 0}})()", "must be Statistics"),
    ],
)
def test_a_file_that_makes_no_reward_is_one_sentence(write, make: str, words: str) -> None:
    write("rewards/odd", f"from rws_cli.rewards.base import Reward\n{SETTINGS}\nmake = {make}\n")
    with pytest.raises(UsageError, match=words):
        load_reward(parts.settings_of("reward", "odd")("odd", "odd", 3), Sudoku(limit=1), 0)
