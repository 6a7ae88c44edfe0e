"""Linear layers of few rows: the same products by another order of factors."""

from __future__ import annotations

import pytest
import torch
from block_models import block_denoiser
from decoder_files import save_a2d
from support import make_settings

from rws_cli.models.narrow import FEWEST, MOST, multiply, speed_up


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, FEWEST - 1), (2, 4), (1, 33), (MOST,), (1, MOST + 1)])
def test_products_are_those_of_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = torch.nn.Linear(24, 40, bias=bias), torch.randn(*shape, 24)
    torch.testing.assert_close(multiply(layer, x), layer(x), atol=1e-5, rtol=1e-5)
    assert multiply(layer, x).is_contiguous()


def test_a_model_has_the_same_logits() -> None:
    denoiser, ids = block_denoiser(4), torch.arange(20)[None]
    with torch.inference_mode():
        before = denoiser.model(input_ids=ids).logits
        speed_up(denoiser.model)
        torch.testing.assert_close(denoiser.model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "sped_up"), [(4, True), (None, False)])
def test_block_models_are_sped_up_when_they_are_loaded(tmp_path, size: int | None, sped_up: bool) -> None:
    model = make_settings("a2d", save_a2d(tmp_path), block_size=size).load().model
    assert ("forward" in vars(model.lm_head)) == sped_up
