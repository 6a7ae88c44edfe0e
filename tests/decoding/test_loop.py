"""The loop's promises: independent rows, counted cost, a true trace, end-of-text policies, guidance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FakeDenoiser, decode, make_sampler, new_canvas
from torch import Tensor

from rws_cli.decoding.record import Cost
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError
from rws_cli.guidance.constant_scale import ConstantScale
from rws_cli.guidance.rws import Rws

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2], [9, 1, 1, 1], [3], [8, 7]]


def guidance(**options) -> Rws:
    values = {
        "kind": "rws", "strength": 1.0, "form": "linear", "normalize": "sigmoid", "fill": "argmax", "target": "all",
        "reward_every": 1, "floor": 1e-3,
    }  # fmt: skip
    return Rws(**(values | options))


class SumScorer:
    """Scores a row by the sum of its shown tokens; remembers what it was asked."""

    statistics = Statistics(mean=40.0, std=10.0, min=0.0, max=80.0)

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked: list[tuple[list[int], list[list[int]], list[float], int]] = []

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        self.asked.append((rows, tokens_BG.tolist(), filled, step))
        return [self.factor * float(t.sum()) for t in tokens_BG]


def decode_rows(rows: list[int], sampler, scorer=None, seed: int = 0, model_seed: int = 0):
    model = FakeDenoiser(seed=model_seed)
    canvas = new_canvas(
        [PROMPTS[r] for r in rows], [f"row-{r}" for r in rows], sampler.gen_length, model.mask_id, 0, seed
    )
    costs = [Cost() for _ in rows]
    traces = decode(model, canvas, sampler, scorer, costs)
    return canvas.completion_BG.tolist(), traces, costs, model


samplers = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["confidence", "margin", "entropy", "random", "left_to_right"]),
        "block_length": st.sampled_from([2, 4, 8]),
        "tokens_per_step": st.sampled_from([1, 2]),
        "temperature": st.sampled_from([0.0, 0.5, 1.3]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "cfg_scale": st.sampled_from([0.0, 0.5]),
        "confidence": st.sampled_from(["raw", "tempered"]),
        "eos": st.sampled_from(["none", "suppress", "stop"]),
        "guidance": st.sampled_from(
            [guidance(), guidance(fill="sample", reward_every=2), ConstantScale(kind="temperature", scale=2.0)]
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(options=samplers, order=st.permutations(range(len(PROMPTS))), size=st.integers(1, 7))
def test_a_rows_result_does_not_depend_on_its_batch(options: dict, order: list[int], size: int) -> None:
    sampler = make_sampler(8, **options)
    together = {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        responses, traces, _, _ = decode_rows(rows, sampler, SumScorer())
        together |= {row: (response, trace) for row, response, trace in zip(rows, responses, traces, strict=True)}
    for row in (order[0], order[-1]):
        (alone,), (trace,), _, _ = decode_rows([row], sampler, SumScorer())
        assert together[row][0] == alone
        assert (together[row][1].step, together[row][1].position) == (trace.step, trace.position)


@settings(max_examples=30, deadline=None)
@given(options=samplers)
def test_every_mask_is_filled_once_and_the_trace_says_how(options: dict) -> None:
    sampler = make_sampler(8, **options)
    responses, traces, costs, model = decode_rows([0, 1, 2], sampler, SumScorer())
    for response, trace, cost in zip(responses, traces, costs, strict=True):
        assert model.mask_id not in response
        assert len(set(trace.position)) == len(trace.position)
        assert [response[p] for p in trace.position] == trace.token
        assert trace.step == sorted(trace.step)
        assert all(0 <= c <= 1 + 1e-12 for c in trace.confidence)
        blocks = [p // sampler.block_length for p in trace.position]
        assert blocks == sorted(blocks)
        steps_used = len(set(trace.step))
        assert cost.mdm_passes == steps_used * (2 if sampler.cfg_scale else 1)
        if sampler.eos != "stop":
            assert sorted(trace.position) == list(range(8))


def test_cost_counts_tokens_without_padding() -> None:
    _, _, costs, _ = decode_rows([0, 2], make_sampler(8, tokens_per_step=2))
    assert [cost.mdm_passes for cost in costs] == [4, 4]
    assert [cost.mdm_tokens for cost in costs] == [4 * (3 + 8), 4 * (5 + 8)]


def test_left_to_right_and_seeds() -> None:
    _, traces, _, _ = decode_rows([0], make_sampler(8, order="left_to_right"))
    assert traces[0].position == list(range(8))
    random = make_sampler(8, order="random", temperature=1.0)
    first, again, other = (decode_rows([0, 1], random, seed=s)[0] for s in (1, 1, 2))
    assert first == again != other


class EndDenoiser(FakeDenoiser):
    """Says the end token (10) at response positions 3 and later with most confidence, 1 elsewhere."""

    def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
        logits = torch.zeros(*tokens_BL.shape, self.vocabulary, dtype=torch.float64)
        start = tokens_BL.shape[1] - 8
        logits[:, start : start + 3, 1] = 3.0
        logits[:, start + 3 :, 10] = 6.0
        logits[..., self.mask_id] = -40
        return logits


@pytest.mark.parametrize(
    ("eos", "first", "passes"), [("none", 3, 8), ("suppress", 0, 8), ("stop", 3, 8)], ids=["none", "suppress", "stop"]
)
def test_end_policies_in_confidence_order(eos: str, first: int, passes: int) -> None:
    model = EndDenoiser()
    canvas = new_canvas([[1, 2]], ["x"], 8, model.mask_id, 0, 0)
    costs = [Cost()]
    (trace,) = decode(model, canvas, make_sampler(8, eos=eos), costs=costs)
    assert canvas.completion_BG[0].tolist() == [1, 1, 1, 10, 10, 10, 10, 10]
    assert trace.position[0] == first
    assert costs[0].mdm_passes == passes


def test_stop_ends_a_row_once_nothing_is_masked_before_its_end() -> None:
    model = EndDenoiser()
    canvas = new_canvas([[1, 2]], ["x"], 8, model.mask_id, 0, 0)
    costs = [Cost()]
    (trace,) = decode(model, canvas, make_sampler(8, eos="stop", order="left_to_right"), costs=costs)
    assert canvas.completion_BG[0].tolist() == [1, 1, 1, 10, 10, 10, 10, 10]
    assert trace.position == [0, 1, 2, 3]
    assert costs[0].mdm_passes == 4


def test_scaling_by_a_constant_reward_is_decoding_at_a_constant_scale() -> None:
    """Sigmoid of a z-score of 0 is 1/2, so 1 + λ/2 scales every step: the temperature control at that scale."""

    class Constant(SumScorer):
        def __call__(self, rows, tokens_BG, filled, step):
            return [self.statistics.mean] * len(rows)

    for strength in (0.0, 1.0, 3.0):
        rws = decode_rows([0, 1, 2], make_sampler(8, guidance=guidance(strength=strength)), Constant())
        control = ConstantScale(kind="temperature", scale=1 + strength / 2)
        constant = decode_rows([0, 1, 2], make_sampler(8, guidance=control))
        assert rws[0] == constant[0]
        assert [t.position for t in rws[1]] == [t.position for t in constant[1]]
    plain = decode_rows([0, 1, 2], make_sampler(8))
    assert decode_rows([0, 1, 2], make_sampler(8, guidance=guidance(strength=0.0)), Constant())[0] == plain[0]


def test_rws_step_by_step_against_a_slow_reference() -> None:
    """One row, one token a step: fill by argmax, score, scale r = 1 + λ·σ((s − mean)/std), commit the surest."""
    for model_seed in range(6):
        model, scorer = FakeDenoiser(seed=model_seed), SumScorer()
        prompt, gen = [1, 5, 2], 8
        x = prompt + [model.mask_id] * gen
        order, scales = [], []
        for _ in range(gen):
            ids = torch.tensor([x])
            z = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0]
            shown = [int(z[i].argmax()) if t == model.mask_id else t for i, t in enumerate(x)]
            score = float(sum(shown[len(prompt) :]))
            r = 1 + 2.5 / (1 + math.exp(-(score - 40.0) / 10.0))
            masked = [i for i, t in enumerate(x) if t == model.mask_id]
            odds_against = {}  # Σ exp(r (z_j − z_top)) over the others: no rounding where p is near 1
            for i in masked:
                *others, top = sorted(z[i].tolist())
                odds_against[i] = sum(math.exp(r * (v - top)) for v in others)
            best = min(masked, key=odds_against.__getitem__)
            x[best] = int(z[best].argmax())
            order.append(best - len(prompt))
            scales.append(r)
        canvas = new_canvas([prompt], ["x"], gen, model.mask_id, 0, 0)
        (trace,) = decode(model, canvas, make_sampler(gen, guidance=guidance(strength=2.5)), scorer)
        assert trace.position == order
        assert canvas.completion_BG[0].tolist() == x[len(prompt) :]
        assert trace.scale == pytest.approx(scales)
        assert [asked[2][0] for asked in scorer.asked] == pytest.approx([n / gen for n in range(gen)])


def test_reward_every_k_steps_and_what_it_is_shown() -> None:
    scorer = SumScorer()
    _, traces, _, model = decode_rows([0, 1], make_sampler(8, guidance=guidance(reward_every=3)), scorer)
    assert [asked[3] for asked in scorer.asked] == [0, 3, 6]
    assert len(set(traces[0].scale)) <= 3
    for fill in ("argmax", "sample", "drop", "keep"):
        scorer = SumScorer()
        decode_rows([0], make_sampler(8, guidance=guidance(fill=fill)), scorer)
        shown_first = scorer.asked[0][1][0]
        assert (model.mask_id in shown_first) == (fill in ("drop", "keep"))
        assert (set(shown_first) == {model.mask_id}) == (fill in ("drop", "keep"))


def test_a_reward_that_is_not_a_number_fails_in_one_sentence() -> None:
    class Broken(SumScorer):
        def __call__(self, rows, tokens_BG, filled, step):
            return [math.nan] * len(rows)

    with pytest.raises(RunError, match="nan"):
        decode_rows([0], make_sampler(8, guidance=guidance()), Broken())


def test_logits_that_are_not_numbers_fail_in_one_sentence() -> None:
    model = FakeDenoiser()
    model.head[0, 0] = math.nan
    canvas = new_canvas([[1]], ["x"], 4, model.mask_id, 0, 0)
    with pytest.raises(RunError, match="not finite"):
        decode(model, canvas, make_sampler(4))
