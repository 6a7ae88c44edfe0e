"""Token-to-token editing (LLaDA2.1) against a slow decoder that follows the published rule for one prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
from block_models import EOS, MASK, block_denoiser, blocks_of, logits_of, proposed
from support import make_sampler, part

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion

PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [16, 17, 18]]
SIZE, LENGTH = 4, 12


def edit_slowly(
    denoiser: Any, prompt: list[int], threshold: float, edit_threshold: float, most: int
) -> tuple[list[int], list[tuple[int, int, int | None]]]:
    """The completion, and (position, token, token before) of each commit and edit."""
    ids, trace = [*prompt, *[MASK] * LENGTH], []
    blocks = blocks_of(len(prompt), len(ids), SIZE, "sequence")
    for block in sorted(set(blocks[len(prompt) :])):
        places = [n for n in range(len(prompt), len(ids)) if blocks[n] == block]
        end, after = places[-1] + 1, 0
        while True:
            masked = [n for n in places if ids[n] == MASK]
            if not masked:
                after += 1
                if after > most:
                    break
            logits = logits_of(denoiser, ids[:end], blocks[:end])
            p = {n: (float(logits[n].double().softmax(-1)[proposed(logits[n])]), proposed(logits[n])) for n in places}
            committed = [n for n in masked if p[n][0] > threshold]
            if masked:
                committed = sorted({*committed, min(masked, key=lambda n: (-p[n][0], n))})
            edited = [n for n in places if n not in masked and p[n][1] != ids[n] and p[n][0] > edit_threshold]
            for n in sorted([*committed, *edited]):
                trace.append((n - len(prompt), p[n][1], ids[n] if n in edited else None))
            for n in [*committed, *edited]:
                ids[n] = p[n][1]
            if not masked and not edited:
                break
        if EOS in ids[len(prompt) :]:
            ids = [EOS if token == MASK else token for token in ids]
            break
    return ids[len(prompt) :], trace


def completions(denoiser: Any, rows: int, cached: bool, **schedule: Any) -> list[Completion]:
    sampler = make_sampler(LENGTH, block_length=SIZE, eos="stop_block", schedule=part("schedule", "edit", **schedule))
    cache = PrefixCache(denoiser, rows) if cached else None
    decoder = Decoder(
        denoiser, [prompt_of(ids, 0, str(n)) for n, ids in enumerate(PROMPTS)], sampler, rows=rows, cache=cache
    )
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


@pytest.mark.parametrize(
    ("rows", "cached"),
    [pytest.param(1, False, marks=pytest.mark.slow), (3, True)],
)
@pytest.mark.parametrize(
    ("threshold", "edit_threshold", "most"), [(0.5, 0.0, 16), (0.3, 0.2, 16), (0.3, 0.0, 2), (0.9, 1.0, 16)]
)
def test_edits_are_those_of_the_published_rule(
    threshold: float, edit_threshold: float, most: int, rows: int, cached: bool
) -> None:
    edits = 0
    for seed in range(3):
        denoiser = block_denoiser(SIZE, seed=seed)
        found = completions(denoiser, rows, cached, threshold=threshold, edit_threshold=edit_threshold, edit_steps=most)
        for one, prompt in zip(found, PROMPTS, strict=True):
            ids, trace = edit_slowly(denoiser, prompt, threshold, edit_threshold, most)
            assert one.tokens == ids
            assert list(zip(one.trace.position, one.trace.token, one.trace.edited_from, strict=True)) == trace
            edits += sum(before is not None for *_, before in trace)
    assert (edits > 10) == (edit_threshold < 1.0)


def test_a_step_makes_one_pass_whether_it_edits_or_commits() -> None:
    for one in completions(block_denoiser(SIZE), 1, True, threshold=0.5, edit_threshold=0.0):
        assert one.cost.mdm_passes >= len(set(one.trace.step))  # a block's last pass changes nothing
