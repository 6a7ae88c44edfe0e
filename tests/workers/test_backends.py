"""A backend of the user's is one file, and new processes find parts of the user's before they read a configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_support import RUN, same

from rws_cli import registry
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.workers.base import start_worker
from rws_cli.workers.ray import Actor

LAST_FIRST = """
'The last batch first.'
from rws_cli.part import part
from rws_cli.workers.local import Local


@part
class LastFirst(Local):
    def conflicts(self, config):
        if config.seed == 7:
            yield "last_first is out of luck with seed=7."

    def decode(self, batches):
        return super().decode(list(batches)[::-1])
"""
JUDGE = """
'A judge without an opinion.'
from rws_cli.part import Part, part


@part
class Silent(Part):
    role = "judge"


def serve(config, connection):
    connection.send(type(config.judge).__module__)
"""


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[str]:
    for name, text in {"workers/last_first.py": LAST_FIRST, "judges/silent.py": JUDGE}.items():
        file = tmp_path / "parts" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    registry.set_folders([str(tmp_path / "parts")])
    yield str(tmp_path / "parts")
    registry.set_folders([])


def test_a_backend_in_a_file_of_the_users(rws, small: list[str], tmp_path: Path, parts: str) -> None:
    assert rws("run", *small, "output=here", "runtime.batch_size=2").exit_code == 0
    result = rws("run", *small, "output=there", "runtime.batch_size=2", "runtime.backend=last_first", "--parts", parts)
    assert result.exit_code == 0, result.output
    assert same(tmp_path / "here" / RUN, tmp_path / "there" / RUN)
    registry.set_folders([parts])  # the command has let go of them
    with pytest.raises(UsageError, match="last_first is out of luck with seed=7"):
        compose("runtime.backend=last_first", "seed=7")


@pytest.mark.parametrize("name", ["backend", "tracker"])
def test_a_name_that_is_no_part_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"runtime.{name}=nothing is not known: choose from .*, "):
        compose(f"runtime.{name}=nothing")


def test_a_new_process_reads_parts_of_the_users(parts: str) -> None:
    config, silent = compose(), registry.load("judge", "silent", "judge.kind")
    config.judge = silent(kind="silent")
    worker = start_worker(config, sys.modules[silent.__module__].serve)
    assert worker.connection.recv() == silent.__module__
    worker.process.join()
    assert worker.process.exitcode == 0


def test_an_actor_knows_the_folders_before_it_reads_a_configuration(parts: str, tmp_path: Path) -> None:
    known = registry.folders()
    registry.set_folders([])
    actor = Actor(str(tmp_path), known, ["reference"])
    assert registry.folders() == known == [parts]
    assert actor.config == ["reference"]
