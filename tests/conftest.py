"""Fixtures that several test modules use."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
from support import llada_config, llada_weights, save_llada


@pytest.fixture(scope="session")
def llada_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llada_config()
    return save_llada(tmp_path_factory.mktemp("llada"), config, llada_weights(config))
