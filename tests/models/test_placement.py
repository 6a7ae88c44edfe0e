"""Weights go straight to their device: transformers is asked to place them while it loads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import make_settings

from rws_cli.models import loading
from rws_cli.models.sharded import split_among


class Loader:
    """Stands for a class of transformers; remembers what it was asked for."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}

    def from_pretrained(self, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self.arguments = arguments
        model: Any = torch.nn.Linear(2, 2)
        model.to = lambda device: SimpleNamespace()
        return model, {}


@pytest.mark.parametrize(
    ("device", "settings", "ranks", "placed"),
    [
        ("cuda:1", {}, 1, {"": torch.device("cuda:1")}),
        ("cuda:1", {"device_map": "auto"}, 1, "auto"),
        ("cuda:1", {}, 2, None),
        ("cpu", {}, 1, None),
    ],
)
def test_weights_are_read_on_their_device(
    llada_folder: Path, monkeypatch: pytest.MonkeyPatch, device: str, settings: dict[str, Any], ranks: int, placed: Any
) -> None:
    monkeypatch.setattr(loading, "pick_device", lambda name, key: torch.device(device))
    loader = Loader()
    loading.load_weights(
        loader, str(llada_folder), make_settings("llada", llada_folder, **settings), "model", **split_among(ranks)
    )
    assert loader.arguments.get("device_map") == placed
