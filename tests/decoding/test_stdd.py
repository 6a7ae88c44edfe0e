"""Our reading of STDD against a slow decoder, and on confidences written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from decoding.test_methods import PROMPT, Slow, fast, ranking_of, rows_of, surest
from support import FakeDenoiser, make_sampler, part
from torch import Tensor

from rws_cli.config.composing import compose
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.statistics import Statistics
from rws_cli.decoding.step import Step, step_of
from rws_cli.errors import UsageError
from rws_cli.guidance.base import Guidance, Guided, scaled

SETTINGS = {"low": 0.25, "high": 0.6}


def unsure(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.3
    return model


def threshold_of(i: int, history: dict[int, list[float]], c: dict[int, float], s: Any) -> float:
    """The threshold of a mask. history: the confidences of masks in this block; c: the confidence of each position of the
    block, that of its commit if it is committed."""
    recent = {j: values[-s.window :] for j, values in history.items()}
    variances = {
        j: sum((v - sum(some) / len(some)) ** 2 for v in some) / len(some)
        for j, some in recent.items()
        if len(some) > 1
    }
    if i not in variances:
        return s.high
    near = [c[j] for j in c if 0 < abs(j - i) <= s.neighbors]
    difference = c[i] - sum(near) / len(near) if near else 0.0
    if s.smooth:
        steady = math.exp(-variances[i] / s.variance_scale)
        return s.high - (s.high - s.low) * steady / (1 + math.exp(-difference / s.difference_scale))
    most = sorted(variances.values())[max(1, math.ceil(s.quantile * len(variances))) - 1]
    return s.low if variances[i] <= most and difference >= 0 else s.high


def decode_slowly(slow: Slow, block: int, s: Any) -> int:
    """Fills slow.x; returns how many tokens were committed below the high threshold, the best of a step left out."""
    gen, low = len(slow.x), 0
    for start in range(0, gen, block):
        where, index = list(range(start, start + block)), 0
        history: dict[int, list[float]] = {}
        c: dict[int, float] = {}
        while slow.masked(where):
            seen = slow.look(start + index, where)
            c |= {i: one["c"] for i, one in seen.items()}
            history = {i: [*history.get(i, []), one["c"]] for i, one in seen.items()}
            best = surest(seen)[0]
            chosen = [i for i in seen if seen[i]["c"] >= threshold_of(i, history, c, s)]
            low += sum(seen[i]["c"] < s.high and i != best for i in chosen)
            slow.commit(seen, sorted({*chosen, best}))
            index += 1
    return low


@pytest.mark.parametrize(
    "settings",
    [{}, {"window": 2, "neighbors": 1}, {"window": 5, "quantile": 1.0}, {"quantile": 0.0, "neighbors": 9},
     {"smooth": True, "variance_scale": 0.02, "difference_scale": 0.2}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
def test_the_rule_is_that_of_a_slow_reference(settings: dict[str, Any], temperature: float) -> None:
    low = 0
    for seed in range(2):
        for gen, block in ((9, 9), (10, 5)):
            model, schedule = unsure(seed), part("schedule", "stdd", **SETTINGS, **settings)
            slow = Slow(model, PROMPT, gen, temperature)
            low += decode_slowly(slow, block, schedule)
            tokens, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
            assert tokens == slow.x
            assert len(set(trace.step)) == slow.passes
    assert low


@pytest.mark.parametrize("settings", [{"low": 0.5, "high": 0.5}, {"low": 0.1, "high": 0.5, "window": 1}], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_it_is_the_threshold_with_equal_thresholds_and_without_a_variance(
    settings: dict[str, Any], smooth: bool
) -> None:
    for seed in range(3):
        model = unsure(seed)
        schedules = part("schedule", "threshold", threshold=0.5), part("schedule", "stdd", smooth=smooth, **settings)
        plain, ours = (fast(model, PROMPT, 12, block_length=6, schedule=schedule) for schedule in schedules)
        assert plain[0] == ours[0]
        assert plain[1].step == ours[1].step


def committed(steps: list[list[float]], **settings: Any) -> list[list[int]]:
    """The positions that each step commits, by confidences written by hand; a committed position's are not read."""
    schedule, batch, positions = part("schedule", "stdd", **settings), rows_of(1, len(steps[0])), []
    schedule.prepare(make_sampler(len(steps[0])))
    for c in steps:
        step = step_of(batch)
        ranking = ranking_of(torch.tensor([c], dtype=torch.float64).log(), schedule.candidates(step))
        ranking = type(ranking)(**vars(ranking) | {"unscaled_BG": ranking.raw_BG})
        schedule.update(ranking, step)
        chosen_BG = schedule.choose(ranking, step)
        positions.append(chosen_BG[0].nonzero()[:, 0].tolist())
        batch.completion_BG.masked_fill_(chosen_BG, 1)
        batch.commit_p_BG = torch.where(chosen_BG, ranking.raw_BG.exp(), batch.commit_p_BG)
        batch.index_B += 1
    return positions


def test_a_steady_token_above_its_neighbors_is_committed_early() -> None:
    """Position 3 has .8 at each step: it waits for a variance, then needs .7 only. Position 6 varies, so it needs .9."""
    steps = [
        [0.95, 0.1, 0.1, 0.8, 0.1, 0.1, 0.4, 0.1],
        [0.0, 0.95, 0.1, 0.8, 0.1, 0.1, 0.9 - 1e-9, 0.2],
        [0.0, 0.0, 0.95, 0.0, 0.1, 0.3, 0.85, 0.1],
    ]
    assert committed(steps) == [[0], [1, 3], [2]]
    assert committed(steps, quantile=1.0) == [[0], [1, 3, 6], [2]]  # now that of position 6 is among the lowest
    assert committed(steps, low=0.9) == [[0], [1], [2]]


def test_a_steady_token_below_its_neighbors_waits() -> None:
    """Committed neighbors have the confidence of their commit: position 2 compares .8 with the mean of .94 and .7."""
    first, then = [0.95, 0.94, 0.8, 0.7, 0.85], [0.0, 0.0, 0.8, 0.7, 0.85]
    assert committed([first, then], neighbors=1) == [[0, 1], [4]]
    first[3] = then[3] = 0.6
    assert committed([first, then], neighbors=1) == [[0, 1], [2, 4]]
    assert committed([first, then], neighbors=2) == [[0, 1], [4]]  # .95, .94, .6, and .85


def test_ties_at_the_quantile_all_count() -> None:
    steps = [[0.95, 0.1, 0.75, 0.1, 0.1, 0.75, 0.1, 0.1], [0.0, 0.1, 0.75, 0.1, 0.1, 0.75, 0.1, 0.95]]
    assert committed(steps, quantile=0.0) == [[0], [2, 5, 7]]


def test_one_mask_alone_is_the_quantile() -> None:
    assert committed([[0.95, 0.8], [0.0, 0.8]]) == [[0], [1]]


class Constant(FakeDenoiser):
    """Logits depend on the position alone."""

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, *_: object) -> Tensor:
        return self.place[wanted_BL.nonzero()[:, 1]] @ self.head * 0.1


class Wavering(Guidance):
    """A scale that is a little above 1 at every other step."""

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        return scaled(predicted, 1 + step.number_B % 2 * 2**-10)


def test_a_scale_that_changes_is_no_variance() -> None:
    """Without one, confidences never change and several tokens are committed at the second step."""
    schedule = part("schedule", "stdd", low=0.1, smooth=True, variance_scale=1e-12)
    traces = [
        fast(Constant(seed=1), PROMPT, 12, guidance=guidance, schedule=schedule)[1]
        for guidance in (part("guidance", "none"), Wavering())
    ]
    assert traces[0].step == traces[1].step
    assert traces[0].step.count(1) > 1
    assert set(traces[1].scale) == {1.0, 1 + 2**-10}


class Low:
    """A reward that never is enough."""

    statistics = Statistics(mean=0.0, std=1.0, min=-9.0, max=9.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return [-9.0] * len(rows)


def test_variances_begin_again_with_each_block_also_when_it_is_decoded_again() -> None:
    """R3 masks all tokens of each block again. No confidence ever changes, so a history would count at once."""
    schedule, again = part("schedule", "stdd", low=0.01, neighbors=1), part("remasking", "r3", threshold=1.0)
    settings = {"block_length": 12, "schedule": schedule, "remasking": again}
    trace = fast(Constant(seed=1), PROMPT, 24, Low(), **settings)[1]
    begins = [0, 12, 24, 36]
    assert [trace.step.count(step) for step in begins] == [1] * 4
    assert any(trace.step.count(step + 1) > 1 for step in begins)


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(UsageError, match=r"low=0\.95 is above sampler\.schedule\.high=0\.9: exchange them"):
        compose("sampler=stdd", "sampler.schedule.low=0.95")
