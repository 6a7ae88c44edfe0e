"""FreeDave against a slow decoder that follows the published rule for one prompt, one canvas at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest
from block_models import block_denoiser
from decoding.test_lopa import MASKED, PROMPT, commits, surest
from decoding.test_speculate import Adverse, Constant
from support import FakeDenoiser, make_sampler, part

from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.errors import UsageError


def plain_step(seen: list[tuple[float, int]], x: list[int], places: list[int], threshold: float | None) -> list[int]:
    """The positions that a plain step commits, best first."""
    ranked = sorted((n for n in places if x[n] == MASKED), key=lambda n: (-seen[n][0], n))
    return [n for n in ranked if threshold is not None and seen[n][0] >= threshold] or ranked[:1]


def freedave_slowly(
    model: Any, length: int, block: int, threshold: float | None, drafts: int
) -> tuple[list[int], list[list[int]], int, int]:
    """The completion, the positions that each step commits, passes, and canvases."""
    x, steps, passes, rows = [MASKED] * length, [], 0, 0
    for first in range(0, length, block):
        places = list(range(first, first + block))
        seen = surest(model, x)
        passes, rows = passes + 1, rows + 1
        while any(x[n] == MASKED for n in places):
            sure = plain_step(seen, x, places, threshold)
            ranked = sorted((n for n in places if x[n] == MASKED), key=lambda n: (-seen[n][0], n))
            rest = [n for n in ranked if n not in sure]
            canvases = []
            for k in range(min(drafts, len(rest) + 1)):
                filled = sure + rest[:k]
                canvases.append([seen[n][1] if n in filled else token for n, token in enumerate(x)])
            futures, targets = [], []
            for canvas in canvases:
                futures.append(surest(model, canvas))
                again = plain_step(futures[-1], canvas, places, threshold)
                targets.append([futures[-1][n][1] if n in again else token for n, token in enumerate(canvas)])
                rows += any(canvas[n] == MASKED for n in places)
            passes += any(canvases[0][n] == MASKED for n in places)
            best = 0
            while True:
                following = [
                    j
                    for j in range(best + 1, len(canvases))
                    if all(t in (MASKED, u) for t, u in zip(canvases[j], targets[best], strict=True))
                ]
                if not following:
                    break
                best = max(following)
            steps.append([n for n in places if x[n] != canvases[best][n]])
            x, seen = canvases[best], futures[best]
    return x, steps, passes, rows


def decoded(model: Any, length: int, block: int, rows: int = 1, cache: Any = None, **schedule: Any) -> Completion:
    sampler = make_sampler(length, block_length=block, schedule=part("schedule", "freedave", **schedule))
    decoder = Decoder(model, [prompt_of(PROMPT, 0, "0")] * rows, sampler, cache=cache)
    return next(one for some in decoder.run() for one in some)


def plainly(model: Any, length: int, block: int, speculate: int = 0, threshold: float | None = None) -> Completion:
    schedule = part("schedule", "threshold", threshold=threshold) if threshold else part("schedule", "fixed")
    sampler = make_sampler(length, block_length=block, schedule=schedule)
    decoder = Decoder(model, [prompt_of(PROMPT, 0, "0")], sampler, speculate=speculate)
    return next(one for some in decoder.run() for one in some)


@pytest.mark.parametrize(("threshold", "drafts"), [(None, 4), (None, 1), (0.5, 4), (0.7, 2), (0.3, 20)])
@pytest.mark.parametrize(("length", "block"), [(8, 8), (12, 4), (9, 3), (2, 1)])
def test_freedave_commits_as_published(length: int, block: int, threshold: float | None, drafts: int) -> None:
    merged = 0
    for seed in range(4):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.8
        tokens, steps, passes, rows = freedave_slowly(model, length, block, threshold, drafts)
        one = decoded(model, length, block, threshold=threshold, drafts=drafts)
        assert one.tokens == tokens
        assert commits(one) == steps
        assert (one.cost.mdm_passes, one.cost.mdm_rows) == (passes, rows)
        assert passes <= length
        merged += any(len(step) > 1 for step in steps)
    assert merged or block == 1 or drafts == 1


@pytest.mark.parametrize("drafts", [1, 2, 4, 8])
@pytest.mark.parametrize(("length", "block"), [(9, 9), (12, 4)])
def test_without_a_threshold_tokens_and_passes_are_those_of_drafted_steps(drafts: int, length: int, block: int) -> None:
    models = [FakeDenoiser(seed=seed) for seed in range(4)]
    for model in models:
        model.head *= 0.8
    for model in (*models, Constant(), Adverse()):
        one, others = decoded(model, length, block, drafts=drafts), plainly(model, length, block)
        assert one.tokens == others.tokens
        if block == length:  # else drafted steps also draft the first step of the next block
            assert one.cost.mdm_passes == plainly(model, length, block, speculate=drafts).cost.mdm_passes
        assert one.cost.mdm_passes <= others.cost.mdm_passes


def test_with_a_threshold_tokens_may_differ_from_those_of_plain_steps() -> None:
    """A draft that is a part of what a plain step commits is accepted, and steps merge."""
    differ = 0
    for seed in range(20):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.5
        one = decoded(model, 12, 12, threshold=0.5, drafts=4)
        differ += one.tokens != plainly(model, 12, 12, threshold=0.5).tokens
    assert 0 < differ < 20


@pytest.mark.parametrize("cached", [False, True])
def test_drafts_share_the_exact_cache_of_block_models(cached: bool) -> None:
    denoiser = block_denoiser(4)
    plain = decoded(denoiser, 12, 4, rows=2)
    one = decoded(denoiser, 12, 4, rows=2, cache=PrefixCache(denoiser, 2) if cached else None)
    assert (one.tokens, commits(one)) == (plain.tokens, commits(plain))
    assert one.cost.mdm_passes == plain.cost.mdm_passes
    assert (one.cost.mdm_tokens < plain.cost.mdm_tokens) == cached


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampler.order=margin"], "sampler.schedule.kind=freedave checks drafts by confidence: it does not work with"),
        (["guidance=rws"], "sampler.schedule.kind=freedave compares canvases that no guidance has changed"),
        (["runtime.speculate=2"], "sampler.schedule.kind=freedave: it computes drafts itself"),
    ],
)
def test_what_does_not_work_with_freedave_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        compose("sampler=freedave", *overrides)
