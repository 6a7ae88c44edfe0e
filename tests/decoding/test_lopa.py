"""LoPA against a slow decoder that follows the published rule for one prompt, one canvas at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from block_models import block_denoiser
from support import FakeDenoiser, make_sampler, part

from rws_cli.config.compatibility import check_compatibility
from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.errors import UsageError

PROMPT = [1, 4, 2]
MASKED = -1


def surest(model: Any, canvas: list[int]) -> list[tuple[float, int]]:
    """The probability of the likeliest token of each position, and the token."""
    ids = torch.tensor([PROMPT + [model.mask_id if token == MASKED else token for token in canvas]])
    logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :]
    found = []
    for p in logits.softmax(-1).tolist():
        token = max((t for t in range(len(p)) if t != model.mask_id), key=lambda t: p[t])
        found.append((p[token], token))
    return found


def lopa_slowly(
    model: Any, length: int, block: int, threshold: float, branches: int
) -> tuple[list[int], list[list[int]], int, int, int]:
    """The completion, the positions that each step commits, passes, canvases, and steps whose anchor was not the best."""
    x, steps, passes, rows, changed = [MASKED] * length, [], 0, 0, 0
    computed: list[list[int]] = []
    for first in range(0, length, block):
        places = list(range(first, first + block))
        while any(x[n] == MASKED for n in places):
            if x not in computed:
                passes, rows = passes + 1, rows + 1
            seen = surest(model, x)
            ranked = sorted((n for n in places if x[n] == MASKED), key=lambda n: (-seen[n][0], n))
            sure = [n for n in ranked if seen[n][0] >= threshold] or ranked[:1]
            rest = [n for n in ranked if n not in sure]
            candidates = [sure] + [[*sure, n] for n in rest[:branches]]
            best, score, computed = sure, -1.0, []
            for candidate in candidates:
                canvas = [seen[n][1] if n in candidate else token for n, token in enumerate(x)]
                masks = [n for n in places if canvas[n] == MASKED]
                future = surest(model, canvas)
                mean = sum(future[n][0] for n in masks) / len(masks) if masks else 1.0
                if len(rest) > 1:
                    rows += 1
                    computed.append(canvas)
                if mean >= score:  # the last of equal ones
                    best, score = candidate, mean
            passes += len(rest) > 1  # a single mask is filled whatever the anchor scores
            changed += best != sure
            steps.append(sorted(best))
            for n in best:
                x[n] = seen[n][1]
    return x, steps, passes, rows, changed


def decoded(model: Any, length: int, block: int, rows: int = 1, cache: Any = None, **schedule: Any) -> Completion:
    sampler = make_sampler(length, block_length=block, schedule=part("schedule", "lopa", **schedule))
    decoder = Decoder(model, [prompt_of(PROMPT, 0, "0")] * rows, sampler, cache=cache)
    return next(one for some in decoder.run() for one in some)


def commits(one: Completion) -> list[list[int]]:
    steps: dict[int, list[int]] = {}
    for step, position in zip(one.trace.step, one.trace.position, strict=True):
        steps.setdefault(step, []).append(position)
    return list(steps.values())


@pytest.mark.parametrize(("threshold", "branches"), [(0.9, 5), (0.5, 2), (1.0, 1), (0.7, 20)])
@pytest.mark.parametrize(("length", "block"), [(8, 8), (12, 4), (9, 3), (2, 1)])
def test_lopa_commits_as_published(length: int, block: int, threshold: float, branches: int) -> None:
    changed = several = 0
    for seed in range(3):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.6
        tokens, steps, passes, rows, others = lopa_slowly(model, length, block, threshold, branches)
        one = decoded(model, length, block, threshold=threshold, branches=branches)
        assert one.tokens == tokens
        assert commits(one) == steps
        assert (one.cost.mdm_passes, one.cost.mdm_rows) == (passes, rows)
        assert one.cost.mdm_tokens == rows * (len(PROMPT) + length)
        assert one.cost.mdm_passes <= len(steps)
        changed, several = changed + others, several + sum(len(step) > 1 for step in steps)
    assert changed or block == 1
    assert several or block == 1


class Trap(FakeDenoiser):
    """Position 0 is the surest, 1 the next, 2 the third. With 2 filled, all others are surer than with any other filled."""

    def full_logits(self, tokens_BL: Any, attention_BL: Any) -> Any:
        logits_BLV = torch.zeros(*tokens_BL.shape, self.vocabulary, dtype=torch.float64)
        filled_B = tokens_BL[:, len(PROMPT) + 2] != self.mask_id
        for n in range(tokens_BL.shape[1] - len(PROMPT)):
            logits_BLV[:, len(PROMPT) + n, n] = torch.where(filled_B, 2.0, 1.0) - 0.1 * n
        return logits_BLV


def test_a_token_that_is_not_the_next_best_may_win() -> None:
    """The anchor is position 0. Position 2 is among the two best of the rest, but not of one."""
    assert commits(decoded(Trap(), 6, 6, branches=2))[0] == [0, 2]
    assert commits(decoded(Trap(), 6, 6, branches=1))[0] == [0]  # filling 1 removes a sure position from the mean


class Sure(FakeDenoiser):
    """The same at every position and canvas."""

    def full_logits(self, tokens_BL: Any, attention_BL: Any) -> Any:
        logits_V = torch.linspace(0.0, 1.0, self.vocabulary, dtype=torch.float64).roll(3)
        return logits_V.expand(*tokens_BL.shape, -1)


def test_the_last_of_equal_canvases_wins_and_a_full_block_scores_one() -> None:
    one = decoded(Sure(), 6, 6, branches=3)
    assert commits(one) == [
        [0, 3],
        [1, 5],
        [2, 4],
    ]  # each time the best position, and the third of the rest, or the last
    assert (one.cost.mdm_passes, one.cost.mdm_rows) == (3, 1 + 4 + 4)


@pytest.mark.parametrize("cached", [False, True])
def test_it_decodes_block_models_with_their_exact_cache(cached: bool) -> None:
    denoiser = block_denoiser(4)
    plain = decoded(denoiser, 12, 4, rows=2, threshold=0.4)
    one = decoded(denoiser, 12, 4, rows=2, cache=PrefixCache(denoiser, 2) if cached else None, threshold=0.4)
    assert (one.tokens, commits(one)) == (plain.tokens, commits(plain))
    assert one.cost.mdm_passes == plain.cost.mdm_passes
    assert (one.cost.mdm_tokens < plain.cost.mdm_tokens) == cached


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["guidance=rws"], "sampler.schedule.kind=lopa compares canvases that no guidance has changed"),
        (["runtime.speculate=2"], "sampler.schedule.kind=lopa: it chooses among canvases"),
        (["runtime.cache=dual"], "runtime.cache=dual does not work with sampler.schedule.kind=lopa"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        check_compatibility(compose("sampler=lopa", *overrides))
