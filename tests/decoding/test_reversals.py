"""Rank reversals: what scaling does to the order of positions, against slow counts and the limits of small and large r."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import FakeDenoiser, decode, make_sampler, new_canvas, new_rows, part

from rws_cli.analysis.guidance import guidance_statistics, mean_guidance
from rws_cli.decoding.rank import count_reversals
from rws_cli.guidance.constant_scale import ConstantScale

scores = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=8)


@given(scores)
def test_reversals_are_pairs_in_strictly_opposite_order(row: list[tuple[int, int, bool]]) -> None:
    before, after, is_open = (torch.tensor([list(column)]) for column in zip(*row, strict=True))
    before, after = (score.double().masked_fill(~is_open, -math.inf) for score in (before, after))
    shown = [(b, a) for b, a, o in row if o]
    pairs = list(itertools.combinations(shown, 2))
    turned = [1 for (b, a), (c, d) in pairs if (b < c and a > d) or (b > c and a < d)]
    found = count_reversals(before, after)
    assert [count.tolist() for count in found] == [[len(pairs)], [len(turned)]]


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_a_runs_reversals_are_those_of_the_canvas_at_each_step(scale: float) -> None:
    """Replay the trace on the model's own logits: confidences at the scale and at 1, position by position."""
    denoiser = FakeDenoiser(seed=3)
    canvas = new_canvas([[1, 2, 3], [4]], ["a", "b"], 12, denoiser.mask_id, 0, seed=0)
    replay = new_rows([[1, 2, 3], [4]], ["a", "b"], 12, denoiser.mask_id, 0, 12)
    guidance = ConstantScale(kind="temperature", scale=scale)
    traces = decode(denoiser, canvas, make_sampler(12, tokens_per_step=3, guidance=guidance))
    some = False
    for row, trace in enumerate(traces):
        tokens = replay.tokens_BL[row : row + 1].clone()
        for first in range(0, 12, 3):
            logits = denoiser.full_logits(tokens, replay.attention_BL[row : row + 1])[0, replay.start :]
            open_ = [g for g in range(12) if tokens[0, replay.start + g] == denoiser.mask_id]
            plain, scaled = ({g: float((r * logits[g]).softmax(-1).max()) for g in open_} for r in (1.0, scale))
            pairs = list(itertools.combinations(open_, 2))
            turned = sum((plain[i] - plain[j]) * (scaled[i] - scaled[j]) < 0 for i, j in pairs)
            other = set(sorted(open_, key=plain.__getitem__)[-3:]) != set(sorted(open_, key=scaled.__getitem__)[-3:])
            assert trace.pairs[first : first + 3] == [len(pairs)] * 3
            assert trace.reversals[first : first + 3] == [turned] * 3
            assert trace.changed_selection[first : first + 3] == [other] * 3
            some = some or turned > 0
            for position, token in list(zip(trace.position, trace.token, strict=True))[first : first + 3]:
                tokens[0, replay.start + position] = token
    assert some == (scale != 1.0)


def test_unscaled_decoding_has_none_to_tell() -> None:
    denoiser = FakeDenoiser()
    canvas = new_canvas([[1]], ["a"], 6, denoiser.mask_id, 0, seed=0)
    (trace,) = decode(denoiser, canvas, make_sampler(6))
    assert trace.reversals == [None] * 6
    assert guidance_statistics(trace) is None
    assert mean_guidance([None]) is None


PLAIN = part("guidance", "none")


def confidences(z_NV: torch.Tensor, r: float) -> torch.Tensor:
    scaled = PLAIN.apply(z_NV, torch.full((len(z_NV),), r, dtype=torch.float64))
    return scaled.log_softmax(-1).max(-1).values


@pytest.mark.parametrize("seed", range(5))
def test_small_and_large_scales_rank_by_max_minus_mean_and_by_gap(seed: int) -> None:
    z = torch.randn(12, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert confidences(z, 1e-7).argsort().tolist() == (z.max(-1).values - z.mean(-1)).argsort().tolist()
    top = z.topk(2).values
    gap = top[:, 0] - top[:, 1]
    # exp(−rδ) ≲ −log c ≤ (V − 1) exp(−rδ): a gap wider by more than log(V − 1)/r wins, while float64 distinguishes c from 1.
    r, margin = 40.0, 1.2 * math.log(8) / 40.0
    c = confidences(z, r)
    decided = [(i, j) for i, j in itertools.permutations(range(12), 2) if gap[j] + margin < gap[i] < 35 / r]
    assert len(decided) > 10
    assert all(c[i] > c[j] for i, j in decided)
    for r in (1e-3, 0.5, 7.0):
        assert torch.equal(PLAIN.apply(z, torch.full((12,), r, dtype=torch.float64)).argmax(-1), z.argmax(-1))


def test_two_positions_may_cross_more_than_once() -> None:
    """So no single threshold divides scales that keep an order from scales that turn it around (needs V ≥ 4)."""
    generator = torch.Generator().manual_seed(0)
    scales = [10 ** (x / 20) for x in range(-40, 41)]
    most = 0
    for _ in range(400):
        z = torch.randn(2, 6, generator=generator, dtype=torch.float64) * 2
        ahead = [bool(c[0] > c[1]) for c in (confidences(z, r) for r in scales)]
        most = max(most, sum(a != b for a, b in itertools.pairwise(ahead)))
    assert most >= 2
