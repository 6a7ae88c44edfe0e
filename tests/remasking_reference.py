"""Slow decoders that revise tokens: one prompt, lists of numbers, one position after another."""

from __future__ import annotations

from typing import Any

import torch
from support import FakeDenoiser, make_sampler, new_canvas, part

from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion

PROMPT = [1, 4, 2]
MASK = -1


def toy(seed: int) -> FakeDenoiser:
    """A model that is sure of some tokens."""
    model = FakeDenoiser(seed=seed)
    model.head *= 1.5
    return model


def probabilities(model: FakeDenoiser, completion: list[int]) -> list[list[float]]:
    """Of each token at each position, from one pass over this completion."""
    ids = torch.tensor([PROMPT + [model.mask_id if token == MASK else token for token in completion]])
    logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :]
    return logits.double().softmax(-1).tolist()


def likeliest(model: FakeDenoiser, p: list[float]) -> int:
    return max((token for token in range(len(p)) if token != model.mask_id), key=lambda token: p[token])


def margin(p: list[float]) -> float:
    first, second = sorted(p, reverse=True)[:2]
    return first - second


def decoded(model: FakeDenoiser, length: int, kind: str, settings: dict[str, Any], **sampler: Any) -> Completion:
    """The same prompt by the decoder, beside a longer one."""
    prompts = new_canvas([PROMPT, [1, 2, 3, 4, 5]], ["a", "b"], length, model.mask_id).prompts
    schedule = part("schedule", kind, **settings)
    decoder = Decoder(model, prompts, make_sampler(length, schedule=schedule, **sampler))
    completions = [one for some in decoder.run() for one in some]
    return next(one for one in completions if one.number == 0)
