"""Dream's file format (Qwen2's names, its own tokenizer class, shifted logits) against an independent forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dream_files import CONFIG, save_dream, weights
from reference import dream_logits
from support import make_settings

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dream(tmp_path_factory.mktemp("dream"))


def test_shifted_logits_equal_an_independent_forward_pass(folder: Path) -> None:
    denoiser = make_settings("dream", folder).load()
    tokens = torch.randint(0, 260, (2, 15), generator=torch.Generator().manual_seed(2))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        logits = denoiser.logits(tokens, everywhere, everywhere).view(2, 15, -1)
    for row in range(2):
        torch.testing.assert_close(logits[row], dream_logits(tokens[row], weights(), CONFIG), atol=1e-4, rtol=1e-4)


def test_left_padding_of_mixed_prompts_changes_nothing(folder: Path) -> None:
    denoiser = make_settings("dream", folder).load()
    short, long = torch.arange(40, 47), torch.arange(90, 101)
    tokens = torch.full((2, 11), 256)
    tokens[0, 4:], tokens[1] = short, long
    attention = torch.ones(2, 11, dtype=torch.bool)
    attention[0, :4] = False
    wanted = torch.zeros_like(attention)
    wanted[:, 7:] = True
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
    expected = torch.cat([dream_logits(short, weights(), CONFIG)[3:], dream_logits(long, weights(), CONFIG)[7:]])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_tokenizer_loads_without_remote_code(folder: Path) -> None:
    denoiser = make_settings("dream", folder).load()
    assert denoiser.mask_id == 259
    assert denoiser.eos_ids == (256, 258)
    ids = denoiser.encode("Hi there")
    assert denoiser.tokenizer.decode(ids) == "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    assert denoiser.text([*denoiser.tokenizer("a b").input_ids, 258, 65]) == "a b"


def test_sliding_windows_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"use_sliding_window": True}))
    with pytest.raises(UsageError, match="sliding window"):
        make_settings("dream", tmp_path).load()


@pytest.mark.parametrize(
    ("name", "path"),
    [("dream_coder", "Dream-org/Dream-Coder-v0-Instruct-7B"), ("diffucoder", "apple/DiffuCoder-7B-Instruct")],
)
def test_models_of_dreams_format_are_presets(folder: Path, name: str, path: str) -> None:
    config = compose(f"model={name}")
    assert (config.model.name, config.model.kind, config.model.path) == (name, "dream", path)
    prepared = compose(f"model={name}", f"model.path={folder}").model.prepare()
    assert (prepared.mask_id, prepared.eos_ids, prepared.warning) == (259, (256, 258), None)
