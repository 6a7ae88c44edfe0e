"""Continuous batching: tokens stay those of batches that wait for their longest row, and fewer passes × rows are computed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support import FakeDenoiser, make_sampler

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.config.composing import compose
from rws_cli.decoding.batch import Prompt, prompt_of
from rws_cli.decoding.loop import Decoder

ROWS = 8


def decode(model: Any, prompts: list[Prompt], sampler: Any) -> tuple[list[list[int]], list[int], int]:
    """Answers, the passes of each prompt, and passes of the batch."""
    steps: list[int] = []
    decoder = Decoder(model, prompts, sampler, rows=ROWS)
    decoder.on_step = lambda committed, traces: steps.append(committed)
    found = sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)
    return [one.tokens for one in found], [one.cost.mdm_passes for one in found], len(steps)


def long_tail() -> tuple[Any, list[Prompt], Any]:
    """Answers of Pareto lengths, most of them short."""
    lengths = random.Random(0)
    prompts = []
    for n in range(64):
        length = min(64, int(4 * lengths.paretovariate(1.2)))
        prompts.append(Prompt([1 + n % 9, 2], prompt_of([], 0, f"row-{n}").key, length=length))
    return FakeDenoiser(seed=4), prompts, make_sampler(64, block_length=64)


def arithmetic(*overrides: str) -> tuple[Any, list[Prompt], Any]:
    """The bundled model, whose answers end where their sums do."""
    config = compose("benchmark=arithmetic", "reward=none", *overrides)
    model = config.model.load()
    examples = Arithmetic(limit=32, seed=1).examples()
    return model, [prompt_of(model.encode(e.prompt), 0, e.id) for e in examples], config.sampler


@pytest.mark.parametrize(
    ("case", "saved"),
    [
        (long_tail, 0.5),
        (lambda: arithmetic("sampler=threshold"), 0.1),
        (lambda: arithmetic("sampler=left_to_right", "sampler.eos=stop", "sampler.tokens_per_step=1"), 0.1),
        (lambda: arithmetic("sampler=threshold", "sampler.eos=stop"), 0.1),
    ],
    ids=["long tail", "threshold", "stop", "threshold and stop"],
)
def test_a_finished_row_gives_its_place_to_the_next(case: Any, saved: float) -> None:
    model, prompts, sampler = case()
    tokens, passes, together = decode(model, prompts, sampler)
    answers, waiting = [], 0
    for start in range(0, len(prompts), ROWS):
        some, _, count = decode(model, prompts[start : start + ROWS], sampler)
        answers += some
        waiting += count
    assert tokens == answers
    assert waiting == sum(max(passes[n : n + ROWS]) for n in range(0, len(passes), ROWS))
    assert together <= sum(passes) / ROWS + max(passes)  # no place is idle while a prompt waits (Graham, 1966)
    assert together <= (1 - saved) * waiting
