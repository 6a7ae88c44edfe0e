"""Attention weights of a model's last layers, beside its logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import llada_config, llada_weights, make_settings, save_llada


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_attention_is_that_of_the_last_layers(tmp_path: Path, layers: int) -> None:
    config = llada_config()
    path = save_llada(tmp_path / "m", config, llada_weights(config))
    denoiser = make_settings("llada", path, attention="eager").load()
    tokens = torch.tensor([[0, 0, 8, 9, 10, 2, 2], [8, 9, 11, 12, 2, 13, 2]])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[0, :2] = False
    with torch.inference_mode():
        logits_NV, weights_BLL = denoiser.attended(tokens, attention, layers)
        assert not denoiser.model.model.layers[-1].self_attn._forward_hooks
        plain_NV = denoiser.logits(tokens, attention, torch.ones_like(attention))
        whole = denoiser.model.model(
            input_ids=tokens,
            attention_mask=attention.long(),
            position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
            output_attentions=True,
        ).attentions
    assert torch.equal(logits_NV, plain_NV)
    expected = torch.stack([one.mean(1) for one in whole[-layers:]]).mean(0)
    assert torch.allclose(weights_BLL[attention], expected[attention])
    assert torch.allclose(weights_BLL[attention].sum(-1), torch.ones(int(attention.sum())))
    assert not weights_BLL[0, 2:, :2].any()
