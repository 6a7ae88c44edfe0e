"""Near ties: tokens that rounding in the model's dtype could have decided otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas, part
from torch import Tensor

from rws_cli.analysis.summary import near_ties
from rws_cli.decoding import prediction
from rws_cli.decoding.prediction import ulp
from rws_cli.decoding.rank import break_ties, selection_near_tie
from rws_cli.decoding.record import RowTrace

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_unit_in_the_last_place_is_the_step_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 2.0, 3.75, 13.0, 100.0, 0.75, -5.5], dtype=dtype)
    away = torch.nextafter(values, values.sign() * torch.inf)
    assert ulp(values.float(), dtype).tolist() == (away.double() - values.double()).abs().tolist()


class Rounded(FakeDenoiser):
    """The toy model, its logits rounded to a dtype; each pass is kept."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        super().__init__(seed=seed)
        self.dtype: torch.dtype = dtype
        self.seen: list[tuple[Tensor, Tensor]] = []

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, count: int | None = None) -> Tensor:
        found = (super().logits(tokens_BL, attention_BL, wanted_BL) * 4).to(self.dtype).float()
        self.seen.append((found.clone(), wanted_BL.clone()))
        return found


def log_p_of_best(z: list[float], mask_id: int) -> float:
    best = max(v for t, v in enumerate(z) if t != mask_id)
    return -math.log1p(math.fsum(math.exp(v - best) for t, v in enumerate(z) if t != z.index(best)))


def slow(
    logits: Tensor, wanted_L: Sequence[bool], chosen: list[int], start: int, mask_id: int, dtype: torch.dtype
) -> list[bool]:
    """The same by its definition, for one row and step of confidence at T = 0, in plain Python."""
    places = [n - start for n, wanted in enumerate(wanted_L) if wanted]
    score, unit, tied = {}, {}, {}
    for place, z in zip(places, logits.double().tolist(), strict=True):
        best, second = sorted((v for t, v in enumerate(z) if t != mask_id), reverse=True)[:2]
        score[place] = log_p_of_best(z, mask_id)
        exponent = math.floor(math.log2(abs(best)))
        unit[place] = torch.finfo(dtype).eps * 2.0**exponent
        tied[place] = best - second < unit[place]
    refused = [score[p] for p in places if p not in chosen]
    selection_near_tie = False
    if refused:
        last = min(chosen, key=lambda p: score[p])
        apart = abs(score[last] - max(refused))
        selection_near_tie = apart < unit[last] * max(abs(score[last]), abs(max(refused)))
    return [tied[p] or selection_near_tie for p in chosen]


@pytest.mark.parametrize("positions", [1, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_near_ties_are_those_of_a_slow_reference(
    dtype: torch.dtype, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """positions: computed at a time."""
    monkeypatch.setitem(prediction.CHUNK_BYTES, "cpu", positions * 12 * 8)
    found: list[bool] = []
    for seed in range(8):
        model = Rounded(dtype, seed)
        canvas = new_canvas([[1, 2, 3]], ["a"], 12, model.mask_id, 0, seed=0)
        (trace,) = decode(model, canvas, make_sampler(12, tokens_per_step=2))
        for step, (logits, wanted_BL) in enumerate(model.seen):
            entries = [n for n, s in enumerate(trace.step) if s == step]
            chosen = [trace.position[n] for n in entries]
            expected = slow(logits, wanted_BL[0].tolist(), chosen, canvas.batch.start, model.mask_id, dtype)
            assert [trace.near_tie[n] for n in entries] == expected
        found += trace.near_tie
    assert any(found) == (dtype == torch.bfloat16)


def test_near_ties_where_committed_tokens_compete() -> None:
    """P2 selects the positions that are no masks after a step; those with tokens are among the last selected."""
    flagged = 0
    for seed in range(8):
        model = Rounded(torch.bfloat16, seed)
        canvas = new_canvas([[1, 2, 3]], ["a"], 12, model.mask_id, 0, seed=0)
        (trace,) = decode(model, canvas, make_sampler(12, steps=6, schedule=part("schedule", "p2")))
        for step, (logits, wanted_BL) in enumerate(model.seen):
            log_p = [log_p_of_best(z, model.mask_id) for z in logits.double().tolist()]
            selected = sorted(range(12), key=lambda n: (-log_p[n], n))[: 12 - 12 * (5 - step) // 6]
            wanted = wanted_BL[0].tolist()
            near = slow(logits, wanted, selected, canvas.batch.start, model.mask_id, torch.bfloat16)
            expected = dict(zip(selected, near, strict=True))
            entries = [n for n, s in enumerate(trace.step) if s == step]
            assert [trace.near_tie[n] for n in entries] == [expected[trace.position[n]] for n in entries]
            flagged += sum(near)
    assert flagged > 0


@pytest.mark.parametrize("options", [{"order": "random"}, {"order": "left_to_right"}, {"order_temperature": 0.5}])
def test_places_that_no_logit_decides_are_no_near_ties(options: dict) -> None:
    model = Rounded(torch.bfloat16, 0)
    canvas = new_canvas([[1, 2, 3]], ["a"], 12, model.mask_id, 0, seed=0)
    (trace,) = decode(model, canvas, make_sampler(12, temperature=1.0, **options))
    assert trace.near_tie == [False] * 12


def test_a_tie_that_a_rule_decides_is_as_near_as_what_the_rule_reads() -> None:
    """Of equal scores `ties=probability` reads log-probabilities, and `leftmost` the places."""
    score = torch.tensor([[0.0, 0.0, 0.0, -1.0, -torch.inf]], dtype=torch.float64)
    chosen, unit = torch.tensor([[True, True, False, False, False]]), torch.full((1, 5), 1e-3, dtype=torch.float64)
    for third, near in ((-0.3, False), (-0.20001, True), (-0.2, True)):
        log_p = torch.tensor([[-0.1, -0.2, third, -2.0, -torch.inf]], dtype=torch.float64)
        assert selection_near_tie([score], score, chosen, unit).tolist() == [True]
        assert selection_near_tie([score, log_p], break_ties(score, log_p), chosen, unit).tolist() == [near]
    assert selection_near_tie([score], score, chosen | (score == 0) | (score == -1), unit).tolist() == [
        False
    ]  # nothing is refused
    assert selection_near_tie([score], score, torch.zeros_like(chosen), unit).tolist() == [False]


@pytest.mark.parametrize(("ties", "most"), [("leftmost", 1.0), ("probability", 0.0)])
def test_sure_positions_under_top_p_are_told_apart_by_probability(ties: str, most: float) -> None:
    """With top_p many positions have one token left, and so the score 0."""
    model = Rounded(torch.float32, 0)
    canvas = new_canvas([[1, 2, 3]], ["a"], 12, model.mask_id, 0, seed=0)
    settings = {"temperature": 1.0, "top_p": 0.05, "confidence": "tempered"}
    (trace,) = decode(model, canvas, make_sampler(12, tokens_per_step=2, ties=ties, **settings))
    assert sum(trace.near_tie[:10]) == most * 10  # the last step has nothing to refuse


def test_the_share_is_over_all_tokens_and_not_made_up_for_old_runs() -> None:
    assert near_ties([{"committed": 6, "near_ties": 3}, {"committed": 2, "near_ties": 0}]) == 3 / 8
    assert near_ties([{"committed": 6, "near_ties": 3}, {"committed": 2}]) is None
    assert RowTrace().near_tie == []
