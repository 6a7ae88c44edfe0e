"""Parts outside the package: from a folder that is typed, or from an installed package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import samples_of

from rws_cli import registry

BENCHMARK = '''"""Say a number again."""

from pathlib import Path

from rws_cli.benchmarks.base import Generated, Grade
from rws_cli.part import part, setting

Path("imported").write_text("echoing")


@part
class Echoing(Generated):
    version = 1
    most: int = setting("the largest number", 9, min=1)

    def make(self, rng, split):
        number = str(rng.randint(1, self.most))
        return f"say {number}", number

    def grade(self, example, answer):
        return Grade(answer == example.reference, 0.5, answer, "whole")
'''
METRIC = '''"""Vowels of an answer."""

from rws_cli.metrics.base import Metric
from rws_cli.part import part


@part
class Vowels(Metric):
    measures = {"count": "vowels of an answer"}

    def compute(self, predictions):
        return {"count": [sum(letter in "aeiou" for letter in text) for text in predictions]}
'''
RUN = ["run", "benchmark=echoing", "metric=[vowels]", "benchmark.limit=2", "reward=none", "sampler=confidence"]


def write_parts(folder: Path) -> Path:
    files = {
        "benchmarks/echoing.py": BENCHMARK,
        "metrics/vowels.py": METRIC,
        "conf/benchmark/echoing.yaml": "# Say a number again\nname: echoing\nkind: echoing\ngen_length: 4\n",
        "conf/metric/vowels.yaml": "# Vowels of an answer\nvowels: { kind: vowels }\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture(autouse=True)
def _no_folders():
    before = set(sys.modules)
    yield
    registry.set_folders([])
    for name in set(sys.modules) - before:
        if name.startswith(("rws_parts", "someones")):
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path: Path) -> str:
    return str(write_parts(tmp_path / "mine"))


def test_a_folder_is_listed_and_nothing_of_it_runs(rws, mine: str, tmp_path: Path) -> None:
    assert "Say a number again (from --parts mine)" in rws("list", "benchmark", "--parts", "mine").output
    assert "echoing" not in rws("list", "benchmark").output
    shown = rws("list", "benchmark", "echoing", "--parts=mine").output
    assert f"{mine}/conf/benchmark/echoing.yaml" in shown.replace("\n", "")
    assert f"{mine}/benchmarks/echoing.py (from --parts mine)" in shown
    assert "the largest number" in shown
    assert not (tmp_path / "imported").exists()
    assert rws("list", "--parts", "nowhere").output == "rws: --parts=nowhere is not a folder.\n"


def test_a_run_with_them_is_recorded_and_resumed_with_them_alone(rws, mine: str, small: list[str], tmp_path: Path):
    assert rws(*RUN).exit_code == 2
    done = rws(*RUN, *small[:2], "--parts", "mine")
    assert done.exit_code == 0, done.output
    run = tmp_path / "outputs/echoing/small-confidence/v001"
    manifest = json.loads((run / "manifest.json").read_text())
    assert f"--parts={mine}" in manifest["command"]
    used = manifest["sources"]["parts"]
    assert used["benchmark"]["source"] == "--parts mine"
    assert (used["metric.vowels"]["role"], used["metric.vowels"]["name"]) == ("metric", "vowels")
    assert all(len(part["sha256"]) == 64 for part in used.values())
    samples = samples_of(run)
    assert all("vowels.count" in sample["measures"] for sample in samples)

    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    (run / "samples.jsonl").write_text(lines[0])
    (tmp_path / "imported").unlink()
    refused = rws("run", "--resume", str(run))
    assert refused.exit_code == 2
    assert f"type it again, rws run --resume {run} --parts={mine}" in refused.output
    again = rws("run", "--resume", str(run), "--parts", "mine")
    assert again.exit_code == 0, again.output
    assert samples_of(run) == samples


def test_another_file_is_refused_where_a_run_is_resumed_or_marked(rws, mine: str, small: list[str], tmp_path: Path):
    assert rws(*RUN, *small[:2], "--parts", "mine").exit_code == 0
    run = str(tmp_path / "outputs/echoing/small-confidence/v001")
    missing = rws("grade", run)
    assert missing.exit_code == 2
    assert "benchmark=echoing of --parts mine, which is not here: type that again" in missing.output
    assert rws("grade", run, "--parts", "mine").exit_code == 0
    assert rws("measure", run, "metric=[length]", "--parts", "mine").exit_code == 0
    (tmp_path / "mine/benchmarks/echoing.py").write_text(BENCHMARK + "\n")
    for command in (["grade", run], ["measure", run, "metric=[length]"], ["run", "--resume", run]):
        refused = rws(*command, "--parts", "mine")
        assert refused.exit_code == 2, refused.output
        assert "mine/benchmarks/echoing.py has changed since" in refused.output


def test_a_run_folder_never_makes_a_file_be_imported(rws, mine: str, small: list[str], tmp_path: Path) -> None:
    """Whatever its records name, and wherever it lies: here beside the folder of parts, and in it."""
    assert rws(*RUN, *small[:2], "--parts", "mine").exit_code == 0
    made = tmp_path / "outputs/echoing/small-confidence/v001"
    registry.set_folders([])
    (tmp_path / "imported").unlink()
    for place in (tmp_path / "got", tmp_path / "mine" / "got"):
        made.rename(place)
        made = place
        for command in ("show", "grade", "measure", "replay", "report"):
            rws(command, str(place), *(["metric=[length]"] if command == "measure" else []))
        for settings in ({"status": "running"}, {"overrides": ["--parts=mine"]}, {"command": "rws run --parts=mine"}):
            content = json.loads((place / "manifest.json").read_text())
            (place / "manifest.json").write_text(json.dumps(content | settings))
            assert rws("run", "--resume", str(place)).exit_code == 2
        assert not (tmp_path / "imported").exists()


def test_a_choice_of_rws_is_not_replaced(rws, mine: str, tmp_path: Path) -> None:
    (tmp_path / "mine/conf/benchmark/sudoku.yaml").write_text("# Mine\nname: sudoku\nkind: echoing\n")
    for command in (["list", "benchmark"], ["run", "--dry-run"]):
        result = rws(*command, "--parts", "mine")
        assert result.exit_code == 2
        assert "mine/conf/benchmark/sudoku.yaml is of the same name as" in result.output


def test_its_configurations_are_as_harmless_as_any_folders(rws, mine: str, tmp_path: Path) -> None:
    (tmp_path / "mine/conf/experiment").mkdir()
    (tmp_path / "mine/conf/experiment/bad.yaml").write_text(
        "# @package _global_\nhydra: {launcher: {setup: [touch ran]}}\n"
    )
    refused = rws("run", "--parts", "mine", "+experiment=bad")
    assert refused.exit_code == 2
    assert "hydra.launcher.setup would change how Hydra runs" in refused.output


def test_an_installed_package_is_listed_by_its_name_and_runs(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path / "site/someones/parts")
    (tmp_path / "site/someones/__init__.py").write_text("")
    info = tmp_path / "site/someones-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rws.parts]\nparts = someones.parts\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry._packages.cache_clear()
    registry.available.cache_clear()
    try:
        assert "Say a number again (from someones)" in rws("list", "benchmark").output
        assert not (tmp_path / "imported").exists()
        done = rws(*RUN, *small[:2])
        assert done.exit_code == 0, done.output
        manifest = json.loads((tmp_path / "outputs/echoing/small-confidence/v001/manifest.json").read_text())
        assert manifest["sources"]["parts"]["benchmark"]["source"] == "someones"
    finally:
        monkeypatch.undo()
        registry._packages.cache_clear()
        registry.available.cache_clear()
