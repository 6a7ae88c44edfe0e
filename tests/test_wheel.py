"""The built wheel holds all that `rws run` needs, away from any checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "someones-parts"
version = "1.0"

[project.entry-points."rws.parts"]
parts = "someones.parts"

[tool.hatch.build.targets.wheel]
packages = ["someones"]
"""
IMPORTED = """
import sys
from rws_cli.cli import app
try:
    app(sys.argv[1:])
finally:
    print("imported:", *sorted(name for name in sys.modules if name.startswith("someones.parts.")))
"""
"""Types a command, then prints which parts of the other package were imported."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, without its dependencies, was installed; and a package with parts of its own."""
    made, target, other = (tmp_path_factory.mktemp(name) for name in ("wheel", "site", "other"))
    shutil.copytree(ROOT / "tests" / "outside", other / "someones" / "parts")
    (other / "pyproject.toml").write_text(PYPROJECT)
    (other / "someones" / "__init__.py").write_text("")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", made, ROOT, other], check=True)
    wheels = list(made.glob("*.whl"))
    assert len(wheels) == 2
    subprocess.run([*pip, "install", "--no-deps", "--target", target, *wheels], check=True)
    return target


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Run Python in an empty folder, and give what it printed."""
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}

    def python_(*arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    return python_


@pytest.mark.slow
def test_rws_run_from_an_empty_folder(python: Callable[..., str], installed: Path, tmp_path: Path) -> None:
    assert str(installed) in python("-c", "import rws_cli; print(rws_cli.__file__)")
    output = python("-c", IMPORTED, "run", "benchmark.limit=2", "sampler.tokens_per_step=6")
    assert "│ reward " in output
    assert output.splitlines()[-1].split() == ["imported:"]
    assert (tmp_path / "outputs" / "sudoku" / "tiny-rws" / "v001" / "metrics.json").exists()
    python("-m", "rws_cli", "report", "outputs/sudoku/tiny-rws")
    assert (tmp_path / "outputs" / "sudoku" / "tiny-rws" / "v001" / "report.html").exists()
    parts = ("sampler=pc", "guidance=rws", "search=best_of_n", "sampler.temperature=1", "sampler.search.particles=2")
    assert "│ reward " in python("-m", "rws_cli", "run", *parts, "benchmark.limit=1", "sampler.tokens_per_step=12")
    assert "left_to_right" in python("-m", "rws_cli", "list", "sampler")
    assert not (installed / "rws_cli" / "assets" / "tiny-mdm" / "state.pt").exists()
    assert (installed / "rws_cli" / "py.typed").exists()  # so that types of rws_cli are seen by who imports it


@pytest.mark.slow
def test_parts_of_an_installed_package(python: Callable[..., str], installed: Path, tmp_path: Path) -> None:
    """Their entry point is enough: nothing is typed. They are listed by the package's name and imported where chosen."""
    files = sorted((installed / "someones/parts").glob("*/*.py"))
    listed = python("-c", IMPORTED, "list")
    for file in files:
        (line,) = (line for line in listed.splitlines() if line.split()[:1] == [file.stem])
        assert line.endswith("(from someones-parts)")
    assert listed.splitlines()[-1].split() == ["imported:"]
    chosen = ["benchmark=counting", "benchmark.limit=1", "sampler=outward", "sampler.schedule.kind=growing"]
    chosen += ["guidance=steady", "search=vote", "sampler.temperature=1", "reward=brief", "metric=[overlap]"]
    ran = python("-c", IMPORTED, "run", *chosen, "judge=shorter")
    imported = ran.splitlines()[-1].split()
    assert {f"someones.parts.{file.parent.name}.{file.stem}" for file in files} <= set(imported)
    run = tmp_path / "outputs/counting/tiny-outward/v001"
    assert "overlap.share" in json.loads((run / "metrics.json").read_text())["measures"]
    used = json.loads((run / "manifest.json").read_text())["sources"]["parts"]
    assert {part["name"] for part in used.values() if part["source"] == "someones-parts"} == {f.stem for f in files}
