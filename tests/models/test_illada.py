"""iLLaDA's file format (Llama's names, a mask that no file names) against an independent forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from decoder_files import ILLADA, illada_weights, save_illada
from reference import decoder_logits
from support import make_settings

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_illada(tmp_path_factory.mktemp("illada"))


def expected(ids: torch.Tensor) -> torch.Tensor:
    return decoder_logits(ids, {name: weight.double() for name, weight in illada_weights().items()}, ILLADA).float()


def test_logits_equal_an_independent_forward_pass_padded_or_not(folder: Path) -> None:
    denoiser = make_settings("illada", folder, mask_token_id=5).load()
    short, long = torch.arange(40, 47), torch.arange(90, 101)
    tokens, attention = torch.full((2, 11), 1), torch.ones(2, 11, dtype=torch.bool)
    tokens[0, 4:], tokens[1] = short, long
    attention[0, :4] = False
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, attention)
    torch.testing.assert_close(logits, torch.cat([expected(short), expected(long)]), atol=1e-5, rtol=1e-5)


def test_presets_state_the_mask_which_the_checkpoint_does_not(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no mask token, .*: set model.mask_token_id"):
        make_settings("illada", folder).prepare()
    for name, base in (("illada", False), ("illada_base", True)):
        config = compose(f"model={name}")
        assert config.model.path == f"GSAI-ML/iLLaDA-8B-{'Base' if base else 'Instruct'}"
        path = save_illada(tmp_path / name, template=None) if base else folder
        prepared = compose(f"model={name}", f"model.path={path}").model.prepare()
        assert (prepared.mask_id, prepared.eos_ids, prepared.pad_id, prepared.warning) == (5, (2,), 1, None)
        text = prepared.tokenizer.decode(prepared.encode("Hi"))
        assert text == ("Hi" if base else "<|role|>user\nHi<|end|><|role|>assistant\n")


def test_an_instruct_checkpoint_without_a_template_is_a_sentence(tmp_path: Path) -> None:
    folder = save_illada(tmp_path, template=None)
    with pytest.raises(UsageError, match="has no chat template: set model.chat_template=false"):
        make_settings("illada", folder, mask_token_id=5).prepare()
