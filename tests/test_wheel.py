"""The built wheel holds all that `rws run` needs, away from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, without its dependencies, was installed."""
    made, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", made, ROOT], check=True)
    (wheel,) = made.glob("rws-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def test_rws_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert str(installed) in python("-c", "import rws_cli; print(rws_cli.__file__)")
    output = python("-m", "rws_cli", "run", "benchmark.limit=2", "sampler.tokens_per_step=6")
    assert "mean reward" in output
    assert (tmp_path / "outputs" / "sudoku" / "tiny-rws" / "v001" / "metrics.json").exists()
    python("-m", "rws_cli", "report", "outputs/sudoku/tiny-rws")
    assert (tmp_path / "outputs" / "sudoku" / "tiny-rws" / "v001" / "report.html").exists()
    parts = ("sampler=pc", "guidance=rws", "search=best_of_n", "sampler.temperature=1", "sampler.search.particles=2")
    assert "mean reward" in python("-m", "rws_cli", "run", *parts, "benchmark.limit=1", "sampler.tokens_per_step=12")
    assert "left_to_right" in python("-m", "rws_cli", "list", "sampler")
    assert not (installed / "rws_cli" / "assets" / "tiny-mdm" / "state.pt").exists()
    assert (installed / "rws_cli" / "py.typed").exists()  # so that types of rws_cli are seen by who imports it
