"""Info-Gain and LookUM against a slow decoder that follows the authors' code for one prompt, one canvas at a time."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from block_models import block_denoiser
from decoding.test_lopa import MASKED, PROMPT, commits
from support import FakeDenoiser, make_sampler, part

from rws_cli.config.compatibility import check_compatibility
from rws_cli.config.composing import compose
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.noise import mix, row_key, uniform
from rws_cli.decoding.prediction import ACTION, GUMBEL, ORDER, PURPOSES, REDRAW
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.errors import UsageError
from rws_cli.schedules.info_gain import InfoGain

KEY = row_key(0, "0")


def numbers(key: int, step: int, purpose: int, position: int, count: int) -> list[float]:
    """The runner's own uniform numbers, so that both draw the same."""
    return uniform(torch.tensor([key]), step * PURPOSES + purpose, torch.tensor([position]), count)[0].tolist()


def probabilities(model: Any, canvas: list[int]) -> list[list[float]]:
    ids = torch.tensor([PROMPT + [model.mask_id if token == MASKED else token for token in canvas]])
    logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :]
    return logits.softmax(-1).tolist()


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def drawn(p: list[float], temperature: float, mask_id: int, key: int, step: int, position: int) -> int:
    legal = [token for token in range(len(p)) if token != mask_id]
    if temperature == 0:
        return max(legal, key=lambda token: p[token])
    noise = [-math.log(-math.log(u)) for u in numbers(key, step, GUMBEL, position, len(p))]
    return max(legal, key=lambda token: math.log(p[token]) / temperature + noise[token])


def best(scores: dict[int, float], count: int) -> list[int]:
    return sorted(scores, key=lambda n: (-scores[n], n))[:count]


class Slow:
    """passes, canvases, and steps that looked ahead, were sure, or took another action than the first."""

    def __init__(self, model: Any, length: int, block: int, steps: int, temperature: float, **settings: Any) -> None:
        self.model, self.temperature = model, temperature
        self.x, self.steps = [MASKED] * length, list[list[int]]()
        self.passes = self.rows = self.looked = self.sure = self.other = 0
        self.computed: list[list[int]] = []
        per_block = block if settings["threshold"] is not None else steps
        for first in range(0, length, block):
            index = 0
            while masks := [n for n in range(first, first + block) if self.x[n] == MASKED]:
                quota = max(1, block // steps + (index < block % steps))
                if self.x not in self.computed:
                    self.passes, self.rows = self.passes + 1, self.rows + 1
                p = probabilities(model, self.x)
                action = self.action(p, masks, quota, first // block * per_block + index, **settings)
                for n, token in action.items():
                    self.x[n] = token
                self.steps.append(sorted(action))
                index += 1

    def proposed(self, p: list[list[float]], masks: list[int], step: int, draw: int) -> dict[int, int]:
        key = int(mix(torch.tensor(KEY) + draw * REDRAW)) if draw else KEY
        return {n: drawn(p[n], self.temperature, self.model.mask_id, key, step, n) for n in masks}

    def action(
        self, p: list[list[float]], masks: list[int], quota: int, step: int, actions: int, tau: float,
        threshold: float | None, weight: float,
    ) -> dict[int, int]:  # fmt: skip
        self.computed = []
        tokens = self.proposed(p, masks, step, 0)
        if len(masks) <= quota:
            return tokens
        sure = {n: max(p[n]) for n in masks if threshold is not None and max(p[n]) >= threshold}
        if sure:
            self.sure += 1
            return {n: p[n].index(max(p[n])) for n in best(sure, quota)}
        several: dict[tuple[int, ...], dict[int, int]] = {}
        u = {n: numbers(KEY, step, ORDER, n, ACTION + actions) for n in masks}
        for draw in range(actions):
            again = self.proposed(p, masks, step, draw)
            score = {n: p[n][again[n]] for n in masks}
            if draw:
                score = {n: score[n] / tau - math.log(-math.log(u[n][ACTION + draw])) for n in masks}
            chosen = best(score, quota)
            several.setdefault(tuple(sorted(chosen)), {n: again[n] for n in chosen})
        if len(several) == 1:
            return next(iter(several.values()))
        self.looked, self.passes, self.rows = self.looked + 1, self.passes + 1, self.rows + len(several)
        values = []
        for action in several.values():
            canvas = [action.get(n, token) for n, token in enumerate(self.x)]
            self.computed.append(canvas)
            later = probabilities(self.model, canvas)
            left = [entropy(later[n]) for n, token in enumerate(canvas) if token == MASKED]
            values.append(-weight * sum(entropy(p[n]) for n in action) - sum(left) / len(left))
        winner = values.index(max(values))
        self.other += winner > 0
        return list(several.values())[winner]


def decoded(
    model: Any, length: int, block: int, steps: int, temperature: float, cache: Any = None, **schedule: Any
) -> Completion:
    sampler = make_sampler(
        length, block_length=block, temperature=temperature, steps=steps * length // block,
        schedule=part("schedule", "info_gain", **schedule),
    )  # fmt: skip
    decoder = Decoder(model, [prompt_of(PROMPT, 0, "0")], sampler, cache=cache)
    return next(one for some in decoder.run() for one in some)


SETTINGS = [
    {"actions": 8, "tau": 0.1, "threshold": 0.8, "weight": 1.0},
    {"actions": 4, "tau": 0.5, "threshold": None, "weight": 1.0},
    {"actions": 8, "tau": 0.2, "threshold": 0.6, "weight": 0.0},
    {"actions": 2, "tau": 5.0, "threshold": 1.0, "weight": 0.3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_info_gain_and_lookum_commit_as_published(settings: dict[str, Any]) -> None:
    looked = other = sure = 0
    for (length, block, steps), temperature, seed in zip(
        [(8, 8, 8), (8, 4, 2), (9, 9, 4), (8, 4, 2), (6, 6, 3)], [0.0, 0.0, 0.0, 0.8, 0.8], range(5), strict=True
    ):
        model = FakeDenoiser(seed=seed)
        model.head *= 0.35
        slow = Slow(model, length, block, steps, temperature, **settings)
        schedule = {"position_temperature" if key == "tau" else key: value for key, value in settings.items()}
        one = decoded(model, length, block, steps, temperature, **schedule)
        assert one.tokens == slow.x
        assert commits(one) == slow.steps
        assert (one.cost.mdm_passes, one.cost.mdm_rows) == (slow.passes, slow.rows)
        assert one.cost.mdm_passes <= len(slow.steps)
        looked, other, sure = looked + slow.looked, other + slow.other, sure + slow.sure
    assert looked > 5
    assert other > 1
    assert (sure > 3) == (settings["threshold"] in (0.6, 0.8))


class Trap(FakeDenoiser):
    """Position 0 is the surest and says nothing of the others; position 1 is a little less sure, and with it all are."""

    def full_logits(self, tokens_BL: Any, attention_BL: Any) -> Any:
        logits_BLV = torch.zeros(*tokens_BL.shape, self.vocabulary, dtype=torch.float64)
        filled_B = tokens_BL[:, len(PROMPT) + 1] != self.mask_id
        logits_BLV[:, len(PROMPT) :, 3] = torch.where(filled_B, 9.0, 0.0)[:, None]
        logits_BLV[:, len(PROMPT), 3], logits_BLV[:, len(PROMPT) + 1, 3] = 3.0, 2.5
        return logits_BLV


def test_a_less_sure_position_that_informs_the_rest_comes_first() -> None:
    settings = {"threshold": None, "actions": 32, "position_temperature": 1.0}
    assert commits(decoded(Trap(), 4, 4, 4, 0.0, **settings))[0] == [1]
    assert commits(decoded(Trap(), 4, 4, 4, 0.0, **settings, weight=10.0))[0] == [0]  # its own entropy decides


class Few(FakeDenoiser):
    """One position is sure, whatever else is on the canvas."""

    def full_logits(self, tokens_BL: Any, attention_BL: Any) -> Any:
        logits_BLV = torch.zeros(*tokens_BL.shape, self.vocabulary, dtype=torch.float64)
        logits_BLV[:, len(PROMPT), 3] = 9.0
        return logits_BLV


def test_sure_tokens_are_committed_without_lookahead_and_the_block_goes_on_after_its_steps() -> None:
    """The authors' code ends a block after its steps, with masks in it, where sure tokens were fewer than a step's quota."""
    one = decoded(Few(), 6, 6, 2, 0.0, actions=4)
    assert [len(step) for step in commits(one)] == [1, 3, 2]
    assert commits(one)[0] == [0]
    assert one.cost.mdm_passes == 3  # two canvases, and one lookahead that is the third


def test_models_that_attend_by_blocks_count_the_masks_of_the_open_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their exact cache or without: the same tokens, and nothing of later blocks is read."""
    denoiser, wanted, decide = block_denoiser(4), [], InfoGain.decide

    def watched(schedule: InfoGain, ranking: Any, ahead: Any, step: Any) -> Any:
        wanted.append((ahead.wanted_BKG & (step.block_BG != step.block_B[:, None])[:, None]).any().item())
        return decide(schedule, ranking, ahead, step)

    monkeypatch.setattr(InfoGain, "decide", watched)
    plain = decoded(denoiser, 12, 4, 4, 0.0, threshold=None)
    cached = decoded(denoiser, 12, 4, 4, 0.0, cache=PrefixCache(denoiser, 1), threshold=None)
    assert (cached.tokens, commits(cached)) == (plain.tokens, commits(plain))
    assert cached.cost.mdm_rows == plain.cost.mdm_rows > 12
    assert not any(wanted)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["guidance=rws"], "sampler.schedule.kind=info_gain compares canvases that no guidance has changed"),
        (["sampler.eos=suppress"], "draws positions by probabilities that sampler.eos=suppress does not change"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        check_compatibility(compose("sampler=lookum", *overrides))
