"""Loading in fewer bits: what transformers is asked for, and, where bitsandbytes is installed, that it decodes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_settings, samples_of

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.models import base
from rws_cli.models.loading import load_weights


def test_without_bitsandbytes_it_is_one_sentence(llada_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"model\.quantization=4bit needs bitsandbytes: pip install 'rws\[quantized\]'"
    ):
        make_settings("llada", llada_folder, quantization="4bit").load()


def test_weights_that_do_not_run_in_few_bits_are_said(llada_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels take no layer as narrow as this one."""
    pytest.importorskip("bitsandbytes")

    def narrow(denoiser: Any) -> None:
        raise RuntimeError("K must be a multiple\nof 64")

    monkeypatch.setattr(base, "check_attention", narrow)
    with pytest.raises(UsageError, match=r"model\.quantization=8bit does not run on cpu: K must be a multiple of 64"):
        make_settings("llada", llada_folder, quantization="8bit").load()
    with pytest.raises(RuntimeError):
        make_settings("llada", llada_folder).load()


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


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_logits_are_those_of_rounded_weights(bits: str) -> None:
    """Not only near those of exact weights: each weight rounded as bitsandbytes rounds a tensor gives them."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        if bits == "4bit":
            return dequantize_4bit(*quantize_4bit(weight, quant_type="fp4"))
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale

    settings = compose("model.device=cpu").model
    fewer, exact, other = (one.load() for one in (replace(settings, quantization=bits), settings, settings))
    for name, module in other.model.model.layers.named_modules():
        if name.endswith("_proj"):
            module.weight.data = rounded(module.weight.data).to(module.weight.dtype)
    assert fewer.model.model.layers[0].mlp.up_proj.weight.dtype == {"8bit": torch.int8, "4bit": torch.uint8}[bits]
    tokens = torch.full((2, 24), exact.mask_id)
    tokens[:, :12] = torch.randint(6, 20, (2, 12), generator=torch.Generator().manual_seed(0))
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        found, true, expected = (model.logits(tokens, wanted, wanted) for model in (fewer, exact, other))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found, expected, dim=-1).min() > 0.998  # it multiplies in bfloat16, and rounds states to 8 bits
    assert cosine(found, true, dim=-1).min() > 0.9
    assert not torch.equal(found, true)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_run_in_fewer_bits_solves_what_it_solved(
    rws, tmp_path: Path, capfd: pytest.CaptureFixture, bits: str
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = ["benchmark.limit=4", "sampler.tokens_per_step=6", "runtime.threads=1"]
    result = rws("run", *settings, f"model.quantization={bits}")
    assert result.exit_code == 0, result.output
    samples = samples_of(tmp_path / "outputs" / "sudoku" / "tiny-rws" / "v001")
    assert all(sample["grade"]["correct"] for sample in samples)
    said = result.output + "".join(capfd.readouterr())
    assert "MatMul8bitLt" not in said
    assert "Failed to load" not in said
