"""Fixtures that several test modules use."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import llada_config, llada_weights, save_llada


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def llada_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llada_config()
    return save_llada(tmp_path_factory.mktemp("llada"), config, llada_weights(config))
