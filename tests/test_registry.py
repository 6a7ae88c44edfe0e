"""Parts are found by their place, read as source, and held to their form. CONTRIBUTING.md's run in test_contributing.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from rws_cli import registry
from rws_cli.config.check import check
from rws_cli.config.composing import compose, unchecked
from rws_cli.errors import UsageError

PARTS = [(role, name) for role in registry.ROLES for name in registry.available(role)]
LENGTH = '''"""Answers of a certain number of words"""
from rws_cli.part import part, setting
from rws_cli.rewards.base import Reward, Scores, Statistics

@part
class Length(Reward):
    words: int = setting("words of a good answer", {default}min=1)

    def score(self, candidates):
        return Scores([1 / (1 + abs(len(c.text.split()) - self.words)) for c in candidates], [0] * len(candidates))
'''


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Write a file of a user's folder of parts."""
    (tmp_path / "mine").mkdir()
    before = set(sys.modules)
    registry.set_folders([str(tmp_path / "mine")])

    def write_(name: str, source: str) -> None:
        file = tmp_path / "mine" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        registry.available.cache_clear()

    yield write_
    registry.set_folders([])
    for name in set(sys.modules) - before:
        if name.startswith("rws_parts_"):
            del sys.modules[name]


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        compose(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shown(hint: Any) -> str:
    """A field's type as its source has it."""
    return hint if isinstance(hint, str) else hint.__name__ if type(hint) is type else str(hint).replace("typing.", "")


@pytest.mark.parametrize(("role", "name"), PARTS)
def test_what_is_read_off_the_source_is_what_the_class_has(role: str, name: str) -> None:
    source, cls = registry.available(role)[name], registry.load(role, name, role)
    settings = {f.name: f for f in fields(cls)}
    assert list(source.settings) == list(settings)
    for key, setting in source.settings.items():
        about = dict(settings[key].metadata)
        default = settings[key].default
        if settings[key].default_factory is not MISSING:
            default = settings[key].default_factory()  # type: ignore[misc]
        assert (setting.meaning, setting.default) == (about.pop("meaning", ""), default)
        assert setting.allowed == about
        assert setting.type == shown(settings[key].type)
    assert source.facts["role"] == role
    assert {key: getattr(cls, key) for key in source.facts} == source.facts


@pytest.mark.parametrize(("role", "name"), PARTS)
def test_every_part_says_in_a_line_what_it_is_and_what_its_settings_mean(role: str, name: str) -> None:
    source = registry.available(role)[name]
    assert len(source.title) > 10
    for setting in source.settings.values():
        if setting.name not in ("name", "kind"):
            assert sum(map(str.isalpha, setting.meaning)) >= 3, setting.name
        assert "\n" not in setting.meaning
        assert not setting.meaning.endswith("."), setting.name


@pytest.mark.parametrize(
    "word", ["base", "reading", "__init__", "..cli", "os", "a.b", "rewards/base", "length-2", "", "42"]
)
def test_other_words_and_modules_are_no_parts(word: str) -> None:
    assert f"reward.kind={word} is not known: choose from classifier, composite" in refused(f"reward.kind='{word}'")
    assert f"model.kind={word} is not known: choose from " in refused(f"model.kind='{word}'")
    assert "is not known: choose from causal" in refused(f"judge.kind='{word}'")


def test_a_name_stands_for_one_part(write, tmp_path: Path) -> None:
    write("rewards/constant", LENGTH.format(default="3, "))
    with pytest.raises(UsageError, match="reward constant is defined twice, in .*rewards/constant.py and in .*mine"):
        registry.available("reward")


def test_a_file_that_marks_nothing_is_not_run(write, tmp_path: Path) -> None:
    write("rewards/half", f"open({str(tmp_path / 'ran')!r}, 'w')\n{LENGTH.format(default='3, ').replace('@part', '')}")
    assert "reward.kind=half is not known" in refused("reward.kind=half")
    assert not (tmp_path / "ran").exists()
    write("rewards/whole", LENGTH.format(default="3, "))
    assert "did you mean whole?" in refused("reward.kind=hole")
    assert "judge.kind=whole is not known" in refused("judge.kind=whole")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os\n\n@part\ndef class:\n", "half.py cannot be imported: SyntaxError: invalid syntax"),
        (f"import nowhere\n{LENGTH}", "half.py cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        (f"{LENGTH}\n1 / 0\n", "half.py cannot be imported: ZeroDivisionError: division by zero"),
        (f"{LENGTH}\n\n@part\nclass Other(Reward):\n    pass\n", "half.py must have exactly one class marked @part"),
        (
            LENGTH.replace("rewards.base import Reward, Scores, Statistics", "judges.base import Judge as Reward"),
            "half.py must have exactly one class marked @part, derived from the base class of a reward",
        ),
    ],
)
def test_a_broken_file_gets_one_sentence(write, rws, tmp_path: Path, source: str, said: str) -> None:
    write("rewards/half", source.replace("{default}", "3, "))
    result = rws("run", "--parts", str(tmp_path / "mine"), "reward.kind=half")
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def test_a_folder_of_parts_has_to_be_there() -> None:
    with pytest.raises(UsageError, match="--parts=/nowhere is not a folder"):
        registry.set_folders(["/nowhere"])


def test_its_settings_are_held_to_what_they_may_be(write, rws, tmp_path: Path) -> None:
    write("rewards/length", LENGTH.format(default=""))
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    for line, said in (
        ("words: 0", "reward.words=0 is out of range: it must be at least 1"),
        ("words: many", "reward.words=many has the wrong type: a whole number"),
        ("wordz: 3", "reward.wordz is not a setting here; did you mean reward.words"),
        ("", "reward.words is not set"),
    ):
        (tmp_path / "conf" / "reward" / "length.yaml").write_text(
            f"# Short answers\nname: length\nkind: length\n{line}\n"
        )
        result = rws("run", "--parts", str(tmp_path / "mine"), "--config-dir", str(tmp_path / "conf"), "reward=length")
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_a_default_stands_at_the_part_alone(write, tmp_path: Path) -> None:
    write("rewards/length", LENGTH.format(default="7, "))
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "length.yaml").write_text("# Short answers\nname: length\nkind: length\n")
    for override, words in ((), 7), (("reward.words=8",), 8):  # without a plus
        assert check(unchecked("reward=length", *override, config_dir=str(tmp_path / "conf"))).reward.words == words


def test_what_only_some_families_can_do_is_refused_to_others(write) -> None:
    write(
        "models/mine",
        '"""Mine"""\nfrom rws_cli.models.base import Model\nfrom rws_cli.part import part\n\n@part\nclass Mine(Model):\n    pass\n',
    )
    assert compose("model.kind=mine").model.kind == "mine"
    for override in ("runtime.compile=true", "runtime.cache=prefix", "sampler=wino", "runtime.backend=tensor_parallel"):
        assert "model.kind=mine" in refused("model.kind=mine", override)


WRAPPER = '''"""Half of another reward"""
from typing import Any
from rws_cli.part import part, setting
from rws_cli.rewards.base import Candidate, Reward, Scores

@part
class Halved(Reward):
    part: Any = setting("the reward that is halved", role="reward")

    def load(self, benchmark, seed, at):
        self.inner = self.part.loaded(benchmark, seed, f"{at}.part")

    def score(self, candidates: list[Candidate]) -> Scores:
        found = self.inner.score(candidates)
        return Scores([value / 2 for value in found.values], found.tokens)
'''


def test_a_reward_of_ones_own_may_hold_another(write, rws, small: list[str], tmp_path: Path) -> None:
    """What it holds is typed, checked and pinned like the parts of a built-in reward."""
    write("rewards/halved", WRAPPER)
    yaml = "# Half of another reward\ndefaults:\n  - /reward@part: tiny\n  - _self_\nname: halved\nkind: halved\n"
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "halved.yaml").write_text(yaml)
    options = ["--parts", str(tmp_path / "mine"), "--config-dir", str(tmp_path / "conf"), *small, "sampler=confidence"]

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
    ("load", "words"),
    [
        ("1 / 0", "reward.kind=odd cannot be loaded: ZeroDivisionError"),
        ("self.normalization = {'mean': 0}", "reward.kind=odd: normalization={'mean': 0} must be Statistics"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_one_sentence(write, load: str, words: str) -> None:
    write("rewards/odd", f"{LENGTH.format(default='3, ')}\n    def load(self, benchmark, seed, at):\n        {load}\n")
    with pytest.raises(UsageError, match=words):
        compose("~reward", "+reward.name=odd", "+reward.kind=odd").reward.loaded(None, 0)


def test_what_rewards_say_of_themselves() -> None:
    def about(*overrides: str) -> tuple[bool, bool, bool]:
        reward = compose("sampler=confidence", *overrides).reward
        return reward.stateless, bool(reward.draws), reward.gradients

    assert about("reward=tiny") == (True, False, True)
    assert about("reward=qrm", "trust_remote_code=true", f"pins.qrm={'0' * 40}") == (True, False, False)
    assert about("reward=verifier") == about("reward=constant") == (True, False, False)
    assert about("reward=shuffled") == (False, True, False)
    assert about("reward=composite") == (True, False, False)
    assert about("reward=composite", "reward@reward.components.a=shuffled") == (False, True, False)
    assert about("reward=process") == (False, False, False)  # two texts that look alike may have other blocks
    assert about("reward=process", "reward.unit=step") == (True, False, False)
    assert about("reward=process", "reward.unit=step", "reward@reward.component=shuffled") == (False, True, False)
