"""The parts on hand-made numbers: noise, proposals, orders, schedules, guidance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support import make_sampler, new_rows, part
from torch import Tensor

from rws_cli.decoding import prediction
from rws_cli.decoding.noise import mix, row_key, uniform
from rws_cli.decoding.prediction import complete, likeliest, log_p_of, log_softmax, nucleus, propose, temper
from rws_cli.decoding.statistics import Statistics, normalize
from rws_cli.decoding.step import Prediction, step_of
from rws_cli.errors import RunError
from rws_cli.guidance.rws import Rws
from rws_cli.schedules.base import best


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_mix_is_splitmix64(x: int) -> None:
    assert int(mix(torch.tensor([x]))) % 2**64 == splitmix64(x % 2**64)


def test_splitmix64_known_answer() -> None:
    """The first output of the generator seeded with 1234567, as published with its reference code."""
    assert int(mix(torch.tensor([1234567]))) % 2**64 == 6457827717110365317


def test_uniforms_are_uniform_and_independent_of_company() -> None:
    keys = torch.tensor([row_key(0, f"e{n}") for n in range(40)])
    u = uniform(keys, 3, torch.arange(40), 500)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.001
    assert abs(float(torch.corrcoef(u).fill_diagonal_(0).abs().max())) < 0.25
    assert torch.equal(uniform(keys[7:9], 3, torch.arange(7, 9), 500), u[7:9])
    assert not torch.equal(uniform(keys, 4, torch.arange(40), 500), u)
    assert float(u.min()) > 0
    assert float(u.max()) < 1


def test_proposals_follow_the_tempered_law() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0, 9.0]]).double().expand(20000, 5)
    keys, places = torch.full((20000,), row_key(0, "x")), torch.arange(20000)
    tempered = temper(logits, 1.7, 1.0)
    allowed = tempered[0, :4].softmax(-1)
    tokens = propose(tempered, 1.7, 4, keys, 0, places, 0)
    counts = torch.bincount(tokens, minlength=5)
    assert counts[4] == 0  # the mask is never proposed
    assert stats.chisquare(counts[:4].numpy(), (allowed * 20000).numpy()).pvalue > 0.001
    assert propose(temper(logits[:1], 0.0, 1.0), 0.0, 4, keys[:1], 0, places[:1], 0).item() == 3


def test_confidence_does_not_saturate() -> None:
    """Where the likeliest token leads by more than 37 logits, 1 − p is below float64's resolution at 1: not log p."""
    leads = torch.tensor([40.0, 60.0, 50.0, 700.0, 5.0], dtype=torch.float64)
    logits = torch.stack([torch.zeros(5, dtype=torch.float64), leads, torch.full_like(leads, -torch.inf)], dim=1)
    log_p = log_softmax(logits)
    assert log_p[:, 1].tolist() == pytest.approx([-math.log1p(math.exp(-lead)) for lead in leads.tolist()], rel=1e-12)
    torch.testing.assert_close(log_p[:, 0], log_p[:, 1] - leads)
    for name in ("confidence", "margin", "entropy"):
        scores = scored(name, list(range(5)), torch.ones(5, dtype=torch.long), log_p)
        surest_first = scores.argsort(descending=True)
        assert surest_first.tolist() == [3, 1, 2, 0, 4], name


def scored(name: str, places: list[int], token_N: Tensor, log_p_NV: Tensor) -> Tensor:
    """An order's scores of positions in one row of 8, from the log-probabilities of all tokens there."""
    order, place_N, own_N = part("order", name), torch.tensor(places), log_p_NV.gather(-1, token_N[:, None])[:, 0]
    zeros_N, key_N = torch.zeros_like(place_N), torch.full_like(place_N, 5)
    prediction = Prediction(zeros_N, place_N, place_N, token_N, own_N, order.features(log_p_NV), key_N, zeros_N)
    return order.score(prediction, step_of(new_rows([[1]], ["a"], 8, 11, 0, 8)))


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=8), st.floats(0.01, 50))
def test_log_softmax_is_the_logarithm_of_the_softmax(values: list[float], scaled: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    torch.testing.assert_close(log_softmax(logits * scaled), (logits * scaled).log_softmax(-1))


@given(
    st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=8),
    st.integers(0, 7),
    st.none() | st.floats(0.01, 1e4),
)
def test_log_p_of_one_token_needs_no_softmax(values: list[float], index: int, scaled: float | None) -> None:
    """float32 logits give what a float64 softmax gives, to rounding, even where p is 1 but for 1e−300."""
    token = torch.tensor([index % len(values)])
    scale = None if scaled is None else torch.tensor([scaled], dtype=torch.float64)
    expected = log_softmax(torch.tensor([values], dtype=torch.float64) * (scaled or 1.0))[0, token]
    torch.testing.assert_close(log_p_of(torch.tensor([values]), token, scale), expected, rtol=2e-6, atol=1e-320)


def test_the_likeliest_token_is_never_the_mask_and_the_first_of_equals() -> None:
    logits = torch.tensor([[5.0, 9.0, 1.0, 5.0], [0.0, 0.0, 0.0, 0.0], [-3.0, -1.0, -2.0, -2.0]])
    assert likeliest(logits, 1).tolist() == [0, 0, 2]
    assert logits[0, 1] == 9.0  # untouched
    wide = torch.randint(0, 40, (50, 1024), generator=torch.Generator().manual_seed(0)).float()
    allowed = wide.clone()
    allowed[:, 3] = -1.0
    assert likeliest(wide, 3).tolist() == [row.index(max(row)) for row in allowed.tolist()]


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double().log()
    kept = nucleus(log_p, 0.8).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0.0, 0.0]]).double())
    assert int((nucleus(log_p, 0.81).exp() > 0).sum()) == 3
    assert int((nucleus(log_p, 0.01).exp() > 0).sum()) == 1
    assert nucleus(log_p, 1.0) is log_p


def test_orders_on_two_hand_made_positions() -> None:
    p = torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.25, 0.25]]).double()
    log_p = (p + 1e-300).log()
    places, proposed = [3, 1], torch.tensor([0, 1])
    names = ("confidence", "margin", "entropy", "left_to_right", "random")
    values = {name: scored(name, places, proposed, log_p).tolist() for name in names}
    assert values["confidence"] == pytest.approx([math.log(0.6), math.log(0.25)])
    assert values["margin"] == pytest.approx([0.2 - 1, 0.25 - 1])
    assert values["entropy"] == pytest.approx(
        [0.6 * math.log(0.6) + 0.4 * math.log(0.4), 0.5 * math.log(0.5) + 0.5 * math.log(0.25)]
    )
    assert values["left_to_right"] == [-3.0, -1.0]
    assert all(0 < v < 1 for v in values["random"])


@given(st.integers(1, 200), st.integers(1, 200))
def test_commits_per_step(masked: int, steps: int) -> None:
    schedule, batch = part("schedule", "fixed"), new_rows([[1]], ["a"], masked, 11, 0, masked)
    schedule.prepare(make_sampler(masked, steps=steps))
    plan = []
    for index in range(steps):
        batch.index_B[:] = index
        plan.append(int(schedule.count(step_of(batch))))
    assert len(plan) == steps
    assert sum(plan) == masked
    assert plan == sorted(plan, reverse=True)
    assert max(plan) - min(plan) <= 1


def test_best_takes_the_highest_and_breaks_ties_leftward() -> None:
    score = torch.tensor([[0.1, 0.9, -math.inf, 0.9], [0.5, 0.5, 0.5, -math.inf]])
    assert best(score, torch.tensor([1, 2])).tolist() == [[False, True, False, False], [True, True, False, False]]
    assert best(score, torch.tensor([9, 0])).tolist() == [[True, True, False, True], [False] * 4]


STATISTICS = Statistics(mean=2.0, std=4.0, min=-6.0, max=10.0)


def test_normalizations() -> None:
    assert normalize(6.0, "none", STATISTICS) == 6.0
    assert normalize(6.0, "zscore", STATISTICS) == 1.0
    assert normalize(6.0, "minmax", STATISTICS) == 0.75
    assert normalize(99.0, "minmax", STATISTICS) == 1.0
    assert normalize(6.0, "sigmoid", STATISTICS) == pytest.approx(1 / (1 + math.exp(-1)))


def settings(form: str, normalize: str = "zscore", strength: float = 1.0) -> Rws:
    return part(
        "guidance", "rws", strength=strength, form=form, normalize=normalize, fill="argmax", target="all",
        reward_every=1, floor=1e-3,
    )  # fmt: skip


def scale(score: float, guidance: Rws) -> float:
    """Of a score that is r by itself, whatever the normalization but minmax and sigmoid."""
    return guidance.scale_of(score, Statistics(mean=0.0, std=1.0, min=-1.0, max=1.0))


@pytest.mark.parametrize(
    ("form", "expected"), [("identity", 0.5), ("linear", 2.0), ("exponential", math.e), ("floored", 0.5)]
)
def test_forms_of_the_scale(form: str, expected: float) -> None:
    assert scale(0.5, settings(form, strength=2.0)) == pytest.approx(expected)


@given(
    st.floats(-1e6, 1e6),
    st.sampled_from(["identity", "linear", "exponential", "floored"]),
    st.floats(0, 100),
)
def test_a_normalized_score_always_gives_a_positive_finite_scale(r: float, form: str, strength: float) -> None:
    assert 1e-3 <= scale(r, settings(form, strength=strength)) <= 1e4


def test_a_raw_score_that_would_invert_the_logits_is_an_error() -> None:
    with pytest.raises(RunError, match="invert"):
        scale(-3.0, settings("linear", "none"))
    with pytest.raises(RunError, match="invert"):
        scale(0.0, settings("identity", "none"))
    assert scale(-3.0, settings("exponential", "none")) == pytest.approx(math.exp(-3))
    assert scale(-3.0, settings("floored", "none")) == 1e-3
    with pytest.raises(RunError, match="nan"):
        scale(math.nan, settings("linear"))


def test_target_all_keeps_argmax_and_proposed_scales_one_logit() -> None:
    z = torch.tensor([[1.0, 3.0, -2.0], [4.0, 0.5, 1.0]])
    r = torch.tensor([2.0, 0.5])
    assert part("guidance", "rws", target="all").apply(z, r).tolist() == [[2.0, 6.0, -4.0], [2.0, 0.25, 0.5]]
    assert part("guidance", "rws", target="proposed").apply(z, r).tolist() == [[1.0, 6.0, -2.0], [2.0, 0.5, 1.0]]


def test_fill_shows_the_likeliest_a_sample_or_the_mask() -> None:
    logits = torch.zeros(1000, 4)
    logits[:, 1], logits[:, 3] = 1.0, 5.0
    keys, places = torch.full((1000,), 77), torch.arange(1000)
    assert set(complete(logits, "argmax", 3, keys, 0, places).tolist()) == {1}
    sampled = torch.bincount(complete(logits, "sample", 3, keys, 0, places), minlength=4) / 1000
    law = torch.tensor([1.0, math.e, 1.0, 0.0]) / (2 + math.e)
    torch.testing.assert_close(sampled, law, atol=0.06, rtol=0)
    assert set(complete(logits, "keep", 3, keys, 0, places).tolist()) == {3}


def test_drawn_completions_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, keys, places = torch.randn(10, 7), torch.arange(10) % 3, torch.arange(10)
    whole = complete(logits, "sample", 6, keys, 5, places)
    monkeypatch.setitem(prediction.CHUNK_BYTES, "cpu", 3 * 8 * 7)
    assert torch.equal(complete(logits, "sample", 6, keys, torch.full((10,), 5), places), whole)


@pytest.mark.parametrize(("role", "kind"), [("order", "confidence"), ("schedule", "fixed")])
def test_features_that_are_not_read_take_no_memory(role: str, kind: str) -> None:
    """A view without columns would keep the float64 log-probabilities of all chunks."""
    features_n = part(role, kind).features(torch.zeros(5, 1000, dtype=torch.float64))
    assert (features_n.shape, features_n.untyped_storage().nbytes()) == ((5, 0), 0)
