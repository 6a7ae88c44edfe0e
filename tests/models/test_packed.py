"""Packed linear layers: the same products from weights in another order."""

from __future__ import annotations

import weakref

import pytest
import torch
from block_models import block_denoiser
from decoder_files import save_a2d
from support import make_settings

from rws_cli.models import packed
from rws_cli.models.packed import pack_weights


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "FEWEST_WEIGHTS", 1)


def is_packed(layer: torch.nn.Linear) -> bool:
    return "forward" in vars(layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (1, 33), (0,), (3, 50), (24,)])
def test_products_are_those_of_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = torch.nn.Linear(24, 40, bias=bias), torch.randn(*shape, 24)
    expected = layer(x)
    pack_weights(layer)
    assert is_packed(layer)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    x_transposed = torch.randn(24, 7).t()
    torch.testing.assert_close(layer(x_transposed), layer(x_transposed.contiguous()), atol=0, rtol=0)


def test_a_model_has_the_same_logits() -> None:
    denoiser, ids = block_denoiser(4), torch.arange(20)[None]
    with torch.inference_mode():
        before = denoiser.model(input_ids=ids).logits
        pack_weights(denoiser.model)
        torch.testing.assert_close(denoiser.model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)


def test_only_shared_weights_are_stored_twice() -> None:
    embedding, head, other = torch.nn.Embedding(40, 24), torch.nn.Linear(24, 40), torch.nn.Linear(24, 24)
    head.weight = embedding.weight
    pack_weights(torch.nn.ModuleList([embedding, head, other]))
    assert (head.weight.is_mkldnn, other.weight.is_mkldnn) == (False, True)
    assert is_packed(head)


def test_weights_are_packed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = torch.nn.ModuleList(torch.nn.Linear(24, 40, bias=False) for _ in range(5))
    weights, alive = [weakref.ref(layer.weight) for layer in layers], []
    monkeypatch.setattr(packed, "partial", lambda *_: alive.append(sum(ref() is not None for ref in weights)))
    pack_weights(layers)
    assert alive == [5, 4, 3, 2, 1]  # the last one is still in use


def test_small_layers_and_other_dtypes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.nn.Linear(24, 40, dtype=torch.bfloat16)
    pack_weights(half)
    monkeypatch.setattr(packed, "FEWEST_WEIGHTS", 24 * 40 + 1)
    small = torch.nn.Linear(24, 40)
    pack_weights(small)
    assert not is_packed(half)
    assert not is_packed(small)


@pytest.mark.parametrize(("size", "faster"), [(4, True), (None, False)])
def test_block_models_are_packed_when_they_are_loaded(tmp_path, size: int | None, faster: bool) -> None:
    model = make_settings("a2d", save_a2d(tmp_path), block_size=size).load().model
    assert is_packed(model.lm_head) == faster
