"""Loading in fewer bits: what transformers is asked for, and, where bitsandbytes is installed, that it decodes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_settings

from rws_cli.errors import UsageError
from rws_cli.models import load_model
from rws_cli.models.base import load_weights


def test_without_bitsandbytes_it_is_one_sentence(llada_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"model\.quantization=4bit needs bitsandbytes: pip install 'rws\[quantized\]'"
    ):
        load_model(make_settings("llada", llada_folder, quantization="4bit"))


def test_it_is_placed_while_it_is_quantized(llada_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Auto:
        @staticmethod
        def from_pretrained(path: str, **arguments: Any) -> Any:
            asked.update(arguments)
            raise OSError("far enough")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")
    with pytest.raises(UsageError, match="far enough"):
        load_weights(Auto, str(llada_folder), make_settings("llada", llada_folder, quantization="8bit"), "model")
    assert asked["quantization_config"].load_in_8bit
    assert asked["device_map"] == {"": torch.device("cpu")}
    assert asked["use_safetensors"] is True


def test_eight_bits_decode(llada_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    denoiser = load_model(make_settings("llada", llada_folder, quantization="8bit"))
    exact = load_model(make_settings("llada", llada_folder))
    tokens = torch.randint(6, 48, (2, 12), generator=torch.Generator().manual_seed(0))
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        near, true = (model.logits(tokens, wanted, wanted) for model in (denoiser, exact))
    assert torch.nn.functional.cosine_similarity(near, true, dim=-1).min() > 0.9
    assert not torch.equal(near, true)
