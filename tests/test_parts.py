"""Kinds in files of their own, and words that must not become one. CONTRIBUTING.md's parts run in test_contributing.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rws_cli.decoding
from rws_cli import parts
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError

PACKAGES = {p.__name__.split(".")[1]: p for p in (rws_cli.decoding,)}
SETTINGS = """
from dataclasses import dataclass
from rws_cli.config.schema import setting

@dataclass
class Settings:
    name: str
    kind: str
    words: int = setting("words of a good answer", min=1)
    answers: int = 1
    gen_length: int = 36
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
}


@pytest.mark.parametrize("folder", MODULES)
def test_the_modules_that_parts_are_made_of_are_no_parts(folder: str) -> None:
    for module in MODULES[folder].split():
        assert importlib.util.find_spec(f"rws_cli.{folder}.{module}")
        assert not [role for role, its in parts.ROLES.items() if its.package == folder and parts.known(role, module)]


NOT_PARTS = ["base", "__init__", "..cli", "os", "a.b", "decoding/base", "length-2", "", "42"]


@pytest.mark.parametrize("word", NOT_PARTS)
def test_other_words_and_modules_are_not_known(word: str) -> None:
    assert "is not known" in refused(f"sampler.order='{word or 'guidance'}'")
    assert parts.find("order", word) is None


def test_a_schedule_says_what_it_reads(write) -> None:
    settings = SETTINGS.replace("    name: str\n", "").replace('setting("words of a good answer", min=1)', "1")
    for name, constant in (("counts", "READS_STEPS = True"), ("takes_back", "MASKS_AGAIN = True")):
        write(f"decoding/{name}", f"{settings}\n{constant}\ndef make(sampler): ...\n")
    given = ["sampler=confidence", "sampler.schedule.kind=counts", "sampler.tokens_per_step=2"]
    assert compose(*given).sampler.schedule.words == 1
    given[1] = "sampler.schedule.kind=takes_back"
    assert "takes as many steps as it needs" in refused(*given)
    assert "may still change" in refused(*given[:2], "sampler.eos=stop")
