"""A-CFG against a slow reference written from the paper's algorithm: one row, one position at a time."""

from __future__ import annotations

import math

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas, part, search

from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.record import Cost
from rws_cli.errors import UsageError

PROMPT, SEED, MASK = [1, 4, 2], 5, 11


def made(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.4
    return model


def logits_of(model: FakeDenoiser, x: list[int]) -> list[list[float]]:
    ids = torch.tensor([PROMPT + x])
    return model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :].tolist()


def softmax(z: list[float]) -> list[float]:
    weights = [math.exp(v - max(z)) for v in z]
    return [w / sum(weights) for w in weights]


def slow(
    model: FakeDenoiser, x: list[int], block: int, per_step: int, scale: float, share: float
) -> tuple[list[int], int]:
    """The completion, and how many tokens second passes masked. x: the canvas at the start."""
    x, given, masked = list(x), {i for i, t in enumerate(x) if t != MASK}, 0
    for first in range(0, len(x), block):
        inside = range(first, first + block)
        while left := [i for i in inside if x[i] == MASK]:
            conditional = logits_of(model, x)
            generated = [i for i, t in enumerate(x) if t != MASK and i not in given]
            least = sorted(generated, key=lambda i: (max(softmax(conditional[i])), i))
            again = least[: min(math.ceil(share * len(generated)), len(generated))]
            masked += len(again)
            other = logits_of(model, [MASK if i in again else t for i, t in enumerate(x)])
            guided = {
                i: [u + (scale + 1) * (c - u) for c, u in zip(conditional[i], other[i], strict=True)] for i in left
            }
            token = {i: max((t for t in range(len(z)) if t != MASK), key=z.__getitem__) for i, z in guided.items()}
            ranked = sorted(left, key=lambda i: (-softmax(guided[i])[token[i]], i))
            for i in ranked[:per_step]:
                x[i] = token[i]
    return x, masked


CASES = [(8, 8, 1, 0.5, 0.7), (12, 4, 2, 2.0, 0.5), (9, 3, 1, 1.0, 0.3), (8, 4, 4, 1.5, 1.0)]


@pytest.mark.parametrize(("gen", "block", "per_step", "scale", "share"), CASES)
def test_a_cfg(gen: int, block: int, per_step: int, scale: float, share: float) -> None:
    guidance, differs = part("guidance", "a_cfg", scale=scale, share=share), 0
    settings = {"block_length": block, "tokens_per_step": per_step}
    for seed in range(3):
        expected, masked = slow(made(seed), [MASK] * gen, block, per_step, scale, share)
        canvas, costs = new_canvas([PROMPT], ["e"], gen, MASK, 0, SEED), [Cost()]
        decode(made(seed), canvas, make_sampler(gen, guidance=guidance, **settings), costs=costs)
        assert canvas.completion_BG[0].tolist() == expected
        assert costs[0].mdm_passes == costs[0].mdm_rows == 2 * math.ceil(block / per_step) * gen // block
        assert masked
        plain = new_canvas([PROMPT], ["e"], gen, MASK, 0, SEED)
        decode(made(seed), plain, make_sampler(gen, **settings))
        differs += plain.completion_BG[0].tolist() != expected
    assert differs


def test_what_stands_before_decoding_stays() -> None:
    """The trap: neither fixed tokens nor the prompt are among those that the second pass masks."""
    guidance = part("guidance", "a_cfg", scale=2.0, share=1.0)
    for seed in range(4):
        fixed = [MASK, 3, MASK, MASK, 7, MASK]
        expected, masked = slow(made(seed), fixed, 6, 1, 2.0, 1.0)
        model, canvas = made(seed), new_canvas([PROMPT], ["e"], 6, MASK, 0, SEED)
        canvas.prompts[0] = prompt_of(PROMPT, SEED, "e", fixed, MASK)
        search(model, canvas, make_sampler(6, guidance=guidance))
        assert canvas.completion_BG[0].tolist() == expected
        assert masked == 0 + 1 + 2 + 3
        assert all(seen[0, :3].tolist() == PROMPT and seen[0, [4, 7]].tolist() == [3, 7] for seen in model.calls)
        assert all(int((seen[0] == MASK).sum()) == 4 for seen in model.calls[1::2])


@pytest.mark.parametrize("settings", [{"scale": 0.0}, {"share": 0.0, "scale": 2.0}])
def test_without_scale_or_masked_tokens_it_changes_nothing(settings: dict) -> None:
    plain, guided = (new_canvas([PROMPT], ["e"], 8, MASK, 0, SEED) for _ in range(2))
    decode(made(1), plain, make_sampler(8))
    decode(made(1), guided, make_sampler(8, guidance=part("guidance", "a_cfg", **settings)))
    assert torch.equal(plain.completion_BG, guided.completion_BG)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampler.cfg_scale=1", "has a scale of its own: set sampler.cfg_scale=0"),
        ("sampler.schedule.kind=wino", "whose passes read a shadow of the block"),
        ("runtime.cache=dual", "runtime.cache=dual does not work with sampler.guidance.kind=a_cfg"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    compose("sampler=a_cfg")
    with pytest.raises(UsageError, match=message):
        compose("sampler=a_cfg", setting)
