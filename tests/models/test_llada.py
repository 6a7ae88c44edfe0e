"""LLaDA's file format through transformers' native class, against an independent forward pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from reference import llada_logits
from support import llada_config, llada_weights, make_settings, save_llada

from rws_cli.errors import UsageError

TOLERANCE = 1e-4  # of logits of a few tens, float32 against float32: two summations in another order


def two_lengths() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A short text, a long one, both as one batch padded on the left, and its attention."""
    short, long = torch.arange(6, 15), torch.arange(20, 34)
    tokens = torch.zeros(2, 14, dtype=torch.int64)
    tokens[0, 5:], tokens[1] = short, long
    attention = torch.ones(2, 14, dtype=torch.bool)
    attention[0, :5] = False
    return short, long, tokens, attention


@pytest.mark.parametrize(
    "fields",
    [{}, {"n_kv_heads": 2}, {"rope_theta": 10000.0, "rms_norm_eps": 1e-6}, {"embedding_size": 60}],
    ids=["8b-like", "grouped-heads", "other-rope", "padded-vocabulary"],
)
def test_logits_equal_an_independent_forward_pass(tmp_path: Path, fields: dict) -> None:
    config = llada_config(**fields)
    weights = llada_weights(config, seed=3)
    denoiser = make_settings("llada", save_llada(tmp_path, config, weights)).load()
    tokens = torch.randint(0, 48, (2, 17), generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    with torch.inference_mode():
        logits = denoiser.logits(tokens, everywhere, everywhere).view(2, 17, -1)
    for row in range(2):
        expected = llada_logits(tokens[row], weights, config)
        assert logits.shape[-1] == config["embedding_size"]
        torch.testing.assert_close(logits[row], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_left_padding_changes_nothing_and_wanted_rows_come_in_order(llada_folder: Path) -> None:
    config = json.loads((llada_folder / "config.json").read_text())
    weights = llada_weights(config)
    denoiser = make_settings("llada", llada_folder).load()
    short, long, tokens, attention = two_lengths()
    wanted = torch.zeros_like(attention)
    wanted[:, [9, 12]] = True
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
    expected = torch.cat([llada_logits(short, weights, config)[[4, 7]], llada_logits(long, weights, config)[[9, 12]]])
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_shadows_see_all_but_their_own_position_and_only_each_other_see_them(llada_folder: Path) -> None:
    """WINO's second look: a mask for each position of the block, behind the sequence, at the same place."""
    config = json.loads((llada_folder / "config.json").read_text())
    weights = llada_weights(config)
    denoiser = make_settings("llada", llada_folder).load()
    short, long, tokens, attention = two_lengths()
    wanted = torch.zeros_like(attention)
    wanted[:, 12] = True
    place_BK = torch.tensor([[9, 10, 13]] * 2)
    with torch.inference_mode():
        logits, shadows = denoiser.shadowed(tokens, attention, wanted, place_BK, place_BK > 0)
    assert shadows.shape == (2, 3, config["embedding_size"])
    for row, (text, pad) in enumerate(((short, 5), (long, 0))):
        places = [p - pad for p in (9, 10, 13)]
        longer = torch.cat([text, torch.full((3,), denoiser.mask_id)])
        blind = {len(text) + n: p for n, p in enumerate(places)}
        expected = llada_logits(longer, weights, config, [*range(len(text)), *places], blind)
        torch.testing.assert_close(shadows[row], expected[len(text) :], atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(logits[row], expected[12 - pad], atol=TOLERANCE, rtol=TOLERANCE)
        alone = llada_logits(text, weights, config)[12 - pad]
        torch.testing.assert_close(logits[row], alone, atol=TOLERANCE, rtol=TOLERANCE)


def test_special_tokens_and_chat_template_come_from_the_checkpoint(llada_folder: Path) -> None:
    denoiser = make_settings("llada", llada_folder).load()
    assert denoiser.mask_id == 2
    assert denoiser.eos_ids == (0, 5)  # end of text pads; end of turn ends too
    assert denoiser.tokenizer.convert_ids_to_tokens(denoiser.encode("w1 w2")) == [
        "<|startoftext|>", "<|start_header_id|>", "user", "<|end_header_id|>", "w1", "w2", "<|eot_id|>",
        "<|start_header_id|>", "assistant", "<|end_header_id|>",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda w: w.pop("model.transformer.blocks.1.up_proj.weight"), "missing weights"),
        (lambda w: w.update({"model.transformer.extra.weight": torch.zeros(3)}), "unexpected weights"),
        (lambda w: w.update({"model.transformer.ln_f.weight": torch.zeros(3)}), "cannot be loaded|mismatched"),
    ],
    ids=["missing", "unexpected", "mismatched"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, damage, sentence: str) -> None:
    config = llada_config()
    weights = llada_weights(config)
    damage(weights)
    with pytest.raises(UsageError, match=sentence):
        make_settings("llada", save_llada(tmp_path, config, weights)).load()


def test_other_architectures_are_refused_by_field(tmp_path: Path) -> None:
    config = llada_config(alibi=True)
    folder = save_llada(tmp_path, config, llada_weights(config))
    with pytest.raises(UsageError, match="alibi=True"):
        make_settings("llada", folder).load()


def test_missing_pieces_are_named(tmp_path: Path, llada_folder: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        make_settings("llada", tmp_path / "nowhere").load()
    with pytest.raises(UsageError, match="bundled:tiny-mdm"):
        make_settings("llada", "bundled:tiny-mmd").load()
    with pytest.raises(UsageError, match="no config.json"):
        make_settings("llada", tmp_path).load()

    bare = tmp_path / "bare"
    shutil.copytree(llada_folder, bare)
    config = json.loads((bare / "config.json").read_text())
    del config["mask_token_id"]
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="no mask token"):
        make_settings("llada", bare).load()
    assert make_settings("llada", bare, mask_token_id=2).load().mask_id == 2

    for file in bare.glob("*chat_template*"):
        file.unlink()
    with pytest.raises(UsageError, match="no chat template"):
        make_settings("llada", bare, mask_token_id=2).load()

    (bare / "model-00001-of-00002.safetensors").write_bytes(b"broken")
    with pytest.raises(UsageError, match="cannot be loaded"):
        make_settings("llada", bare, mask_token_id=2, chat_template=False).load()
    (bare / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match="model-00001-of-00002.safetensors"):
        make_settings("llada", bare, mask_token_id=2, chat_template=False).load()


@pytest.mark.parametrize("device_map", ["auto", "cpu", "sequential"])
def test_a_checkpoint_spread_by_a_device_map_is_the_same(llada_folder: Path, device_map: str) -> None:
    tokens = torch.randint(6, 48, (2, 12), generator=torch.Generator().manual_seed(0))
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    settings = [make_settings("llada", llada_folder, device_map=spread) for spread in (None, device_map)]
    with torch.inference_mode():
        whole, spread = (one.load().logits(tokens, wanted, wanted) for one in settings)
    assert torch.equal(whole, spread)
    with pytest.raises(UsageError, match="cannot be loaded"):
        make_settings("llada", llada_folder, device_map="nowhere").load()


def test_the_real_config_translates() -> None:
    from support import SHARED

    from rws_cli.models.llada import llama_config

    real = SHARED / "data" / "llada_8b_instruct" / "config.json"
    if not real.exists():
        pytest.skip("LLaDA's real config.json is not at hand")
    native = llama_config(json.loads(real.read_text()), "real")
    assert (native.hidden_size, native.num_hidden_layers, native.num_attention_heads) == (4096, 32, 32)
    assert (native.intermediate_size, native.vocab_size) == (12288, 126464)
    assert native.rope_parameters["rope_theta"] == 500000.0
    assert native.is_causal is False
