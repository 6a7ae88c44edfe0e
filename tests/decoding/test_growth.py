"""Completions that grow: DAEDAL against its published procedure, rewritten for one prompt; and a block at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FakeDenoiser, Scored, make_sampler, part
from torch import Tensor

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion
from rws_cli.decoding.statistics import Statistics

END, BLANK = 10, 11
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 9]]


class Wordy(FakeDenoiser):
    """Sure of its end only where enough tokens stand before it: the end grows likelier from left to right."""

    def __init__(self, seed: int, start: float = -8.0, slope: float = 0.6) -> None:
        super().__init__(seed=seed)
        self.start, self.slope = start, slope

    def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
        logits = super().full_logits(tokens_BL, attention_BL) / 2
        position = (attention_BL.cumsum(-1) - 1).clamp(min=0)
        logits[..., END] += self.start + self.slope * position
        return logits


def logits_of(model: FakeDenoiser, prompt: list[int], completion: list[int]) -> Tensor:
    row = torch.tensor([prompt + completion])
    return model.full_logits(row, torch.ones_like(row, dtype=torch.bool))[0, len(prompt) :]


def daedal(model: FakeDenoiser, prompt: list[int], start: int, most: int, block: int, rule: dict[str, Any]) -> Any:
    """Completion, and position and step of each commit, of one prompt (LLaDA_DAEDAL.py of Li-Jinsong/DAEDAL, 303c9e9); an
    expansion never pushes tokens out at the end."""

    def end_confidence(p: Tensor) -> float:
        ends = [float(row[END]) for row in p.flip(0) if int(row.argmax()) == END]
        return sum(ends[: rule["checked"]]) / rule["checked"]

    length = start
    passes = 0
    while True:
        p = logits_of(model, prompt, [BLANK] * length).softmax(-1)
        passes += 1
        if end_confidence(p) >= rule["start_enough"] or length >= most:
            break
        length = min(length + rule["masks"], most)
    x = [BLANK] * length + [END] * min(rule["checked"] // 2, most - length)
    when: list[int | None] = [None] * len(x)
    place = 0
    while place < len(x):
        here = range(place, min(place + block, len(x)))
        masked = [n for n in here if x[n] == BLANK]
        if not masked:
            place += block
            continue
        p = logits_of(model, prompt, x).softmax(-1)
        best = {n: float(p[n].max()) for n in masked}
        fill = [n for n in masked if best[n] > rule["threshold"]] or [max(masked, key=lambda n: (best[n], -n))]
        rest = [n for n in masked if n not in fill and best[n] < rule["unsure"]]
        for n in fill:
            x[n], when[n] = int(p[n].argmax()), passes
        if rest and end_confidence(p) < rule["enough"] and len(x) < most:
            split = min(rest, key=lambda n: (best[n], n))
            more = min(rule["masks"] - 1, most - len(x))
            x[split + 1 : split + 1] = [BLANK] * more
            when[split + 1 : split + 1] = [None] * more
        passes += 1
    return x, when, passes


def dense(steps: list[int]) -> list[int]:
    """Steps counted without gaps."""
    return [sorted(set(steps)).index(step) for step in steps]


RULES = [
    {"threshold": 0.8, "unsure": 0.4, "masks": 4, "start_enough": 0.5, "enough": 0.9, "checked": 6},
    {"threshold": 0.5, "unsure": 0.3, "masks": 3, "start_enough": 0.2, "enough": 0.95, "checked": 4},
    {"threshold": 0.9, "unsure": 0.1, "masks": 8, "start_enough": 0.5, "enough": 0.9, "checked": 32},
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['masks']}")
def test_daedal_decodes_as_published(rule: dict[str, Any], seed: int) -> None:
    model, start, most, block = Wordy(seed), 6, 40, 8
    sampler = make_sampler(most, block_length=block, start_length=start, schedule=part("schedule", "daedal", **rule))
    prompts = [prompt_of(ids, 0, str(n), [BLANK] * start, BLANK) for n, ids in enumerate(PROMPTS)]
    decoder = Decoder(model, prompts, sampler, rows=3)
    together = sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)
    split = 0
    for prompt, one in zip(PROMPTS, together, strict=True):
        completion, when, passes = daedal(model, prompt, start, most, block, rule)
        assert one.tokens == completion
        commits = dict(zip(one.trace.position, dense(one.trace.step), strict=True))
        last = {n: step for n, step in enumerate(when) if step is not None}
        assert commits == dict(zip(last, dense(list(last.values())), strict=True))
        assert one.cost.mdm_passes == passes
        split += len(completion) > start
    assert split


@pytest.mark.slow
def test_daedal_grows_in_both_ways() -> None:
    """The cases above insert masks in the middle, and at the end; some completions reach the limit, others do not."""
    lengths, split = set(), 0
    for seed in range(3):
        for rule in RULES:
            for prompt in PROMPTS:
                model = Wordy(seed)
                grown = daedal(model, prompt, 6, 40, 8, rule)[0]
                plain = daedal(model, prompt, 6, 40, 8, rule | {"unsure": 0.0})[0]
                lengths.add(len(grown))
                split += len(grown) > len(plain)
    assert split
    assert 40 in lengths
    assert min(lengths) < 30


def grow(model: Any, rows: int | None = None, start: int = 4, **settings: Any) -> list[Completion]:
    settings = {name: part(*value) if isinstance(value, tuple) else value for name, value in settings.items()}
    sampler = make_sampler(24, block_length=4, start_length=start, **settings)
    prompts = [
        prompt_of(ids, 1, f"{n} particle {k}" if k else str(n), [BLANK] * start, BLANK)
        for n, ids in enumerate(PROMPTS)
        for k in range(sampler.search.particles)
    ]
    decoder = Decoder(model, prompts, sampler, rows=rows)
    decoder.scorer = Scored(Reward(), Reward.statistics, decoder.costs)
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


class Reward:
    statistics = Statistics(50.0, 20.0, 0.0, 100.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, shares: list[float], step: int) -> list[float]:
        return [float(sum((n + 1) * token for n, token in enumerate(ids)) % 101) for ids in tokens_BG.tolist()]


@pytest.mark.parametrize("start", [4, 6])
def test_a_completion_grows_while_no_end_token_stands(start: int) -> None:
    """One surest token at a time of the first block with a mask; when nothing is masked, masks to the end of a block."""
    model = Wordy(3, start=-6.0, slope=0.8)
    lengths = set()
    for prompt, one in zip(PROMPTS, grow(model, start=start), strict=True):
        x, order = [BLANK] * start, []
        tokens = 0
        while True:
            while BLANK in x:
                block = x.index(BLANK) // 4
                masked = [n for n in range(4 * block, min(4 * block + 4, len(x))) if x[n] == BLANK]
                p = logits_of(model, prompt, x).softmax(-1)
                tokens += len(prompt) + len(x)
                best = max(masked, key=lambda n: (float(p[n].max()), -n))
                x[best] = int(p[best].argmax())
                order.append(best)
            if END in x or len(x) == 24:
                break
            x += [BLANK] * (4 - len(x) % 4)
        assert (one.tokens, one.trace.position) == (x, order)
        assert one.cost.mdm_tokens == tokens
        lengths.add(len(x))
    assert len(lengths) > 1


METHODS: dict[str, dict[str, Any]] = {
    "rws": {"guidance": ("guidance", "rws"), "temperature": 0.5},
    **{kind: {"schedule": ("schedule", kind)} for kind in ("threshold", "klass", "prophet", "remdm", "wino", "edit")},
    "r3": {"remasking": part("remasking", "r3", window=2)},
    "stop": {"eos": "stop"},
    "stop_block": {"eos": "stop_block"},
    **{kind: {"search": ("search", kind), "temperature": 1.0} for kind in ("best_of_n", "smc", "fk", "particle_gibbs")},
    "smc, stopping": {"search": ("search", "smc"), "temperature": 1.0, "eos": "stop_block"},
}  # fmt: skip


QUICK = ("rws", "wino", "fk", "smc", "smc, stopping")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS])
def test_every_method_grows_and_alone_as_in_any_batch(name: str) -> None:
    model = Wordy(5, start=-6.0, slope=0.8)
    together = grow(model, **METHODS[name])
    assert [one.tokens for one in together] == [one.tokens for one in grow(model, rows=1, **METHODS[name])]
    for one in together:
        assert BLANK not in one.tokens
        assert END in one.tokens or len(one.tokens) == 24
        if name != "r3":  # which decodes the block before again
            assert END not in one.tokens[:-4]  # it would not have grown
        assert max(one.trace.position) < len(one.tokens)
    assert {len(one.tokens) for one in together} != {4}


def test_a_canvas_grows_only_behind_a_mask() -> None:
    model, sampler = Wordy(2, start=-100.0, slope=0.0), make_sampler(12, block_length=4, start_length=4)
    canvases = [[BLANK, 5, BLANK], [BLANK, BLANK, 5]]
    prompts = [prompt_of([1], 0, str(n), canvas, BLANK) for n, canvas in enumerate(canvases)]
    (grown, closed) = sorted(
        (one for some in Decoder(model, prompts, sampler).run() for one in some), key=lambda c: c.number
    )
    assert (len(grown.tokens), len(closed.tokens)) == (12, 3)
    assert (grown.tokens[1], closed.tokens[2]) == (5, 5)
