"""Fixtures that several test modules use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; read when torch is imported, here and in processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="rws-modules-")  # where transformers keeps remote code

import pytest
import torch
from support import llada_config, llada_weights, save_llada, small_run
from typer.testing import CliRunner, Result

from rws_cli.cli import app


def pytest_configure(config: pytest.Config) -> None:
    """Tests marked `cuda` are skipped where torch finds no GPU; asked for alone, they fail."""
    if config.option.markexpr == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(f"these tests need a GPU, and torch {torch.__version__} finds no GPU")


@pytest.fixture(scope="session")
def llada_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llada_config()
    return save_llada(tmp_path_factory.mktemp("llada"), config, llada_weights(config))


@pytest.fixture
def rws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Type a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    runner = CliRunner()

    def type_(*arguments: str) -> Result:
        return runner.invoke(app, list(arguments))

    return type_


@pytest.fixture
def small(llada_folder: Path) -> list[str]:
    return small_run(llada_folder)
