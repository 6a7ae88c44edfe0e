"""Tokens that stand on the canvas: every method leaves them, sees them, and writes no end token before one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_models import EOS, MASK, block_denoiser, blocks_of, logits_of, proposed, surest
from support import FakeDenoiser, Scored, make_sampler, part
from torch import Tensor

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.decoding.statistics import Statistics

PROMPTS = [[1, 2, 3], [4], [5, 6]]
END, BLANK = 10, 11
CANVASES = [
    [BLANK, 5, BLANK, BLANK, 7, 8, BLANK, BLANK],
    [BLANK, BLANK, 3, BLANK, 9],
    [],
]
"""Fixed tokens within and between blocks of 4; a canvas shorter than the others that ends in a fixed token; none."""
LENGTHS = [8, 5, 8]
METHODS: dict[str, dict[str, Any]] = {
    **{order: {"order": order} for order in ("confidence", "margin", "entropy", "random", "left_to_right")},
    "drawn": {"temperature": 1.2, "top_p": 0.8, "order_temperature": 0.5},
    "rws": {"guidance": ("guidance", "rws"), "schedule": ("schedule", "threshold"), "block_length": 4},
    "constant": {"guidance": ("guidance", "constant_scale"), "cfg_scale": 0.5},
    **{
        kind: {"schedule": ("schedule", kind), "block_length": 4}
        for kind in ("threshold", "factor", "eb", "klass", "prophet", "dream", "dynamic", "remdm", "refine", "wino")
    },
    "edit": {"schedule": ("schedule", "edit"), "eos": "stop_block", "block_length": 4},
    "r3": {"remasking": ("remasking", "r3"), "block_length": 4},
    "suppress": {"eos": "suppress"},
    "llada's ends": {"eos": "confidence_eos_eot_inf", "order": "margin"},
    "stop": {"eos": "stop", "tokens_per_step": 2},
    **{
        kind: {"search": ("search", kind), "temperature": 1.0, "block_length": 4}
        for kind in ("best_of_n", "smc", "fk", "particle_gibbs")
    },
}


class Ending(FakeDenoiser):
    """A model that likes to end: at most positions the end token is likeliest."""

    def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
        logits = super().full_logits(tokens_BL, attention_BL)
        logits[..., END] += 30
        return logits


class Reward:
    statistics = Statistics(50.0, 20.0, 0.0, 100.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, shares: list[float], step: int) -> list[float]:
        return [float(sum((n + 1) * token for n, token in enumerate(ids)) % 101) for ids in tokens_BG.tolist()]


def decode(model: Any, numbers: list[int], rows: int | None = None, **settings: Any) -> list[Completion]:
    settings = {name: part(*value) if isinstance(value, tuple) else value for name, value in settings.items()}
    sampler = make_sampler(8, **settings)
    prompts = [
        prompt_of(PROMPTS[n], 1, f"{n} particle {k}" if k else str(n), CANVASES[n], BLANK)
        for n in numbers
        for k in range(sampler.search.particles)
    ]
    decoder = Decoder(model, prompts, sampler, rows=rows)
    decoder.scorer = Scored(Reward(), Reward.statistics, decoder.costs)
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_what_stands_on_the_canvas(name: str) -> None:
    model = Ending(seed=4)
    together = decode(model, [0, 1, 2], **METHODS[name])
    for one, canvas, length in zip(together, CANVASES, LENGTHS, strict=True):
        fixed = {n: token for n, token in enumerate(canvas) if token != BLANK}
        last = max(fixed, default=0)
        assert len(one.tokens) == length
        assert {n: one.tokens[n] for n in fixed} == fixed
        assert not set(one.trace.position) & set(fixed)
        assert BLANK not in one.tokens
        assert END not in one.tokens[:last]
        assert one.trace.token == [t for t, n in zip(one.trace.token, one.trace.position, strict=True) if n < length]
    assert END in together[2].tokens  # it does end where nothing stands behind
    for number in range(3):
        (alone,) = decode(model, [number], **METHODS[name])
        assert alone.tokens == together[number].tokens
        assert alone.trace.position == together[number].trace.position
        assert alone.cost.mdm_tokens == together[number].cost.mdm_tokens


@pytest.mark.parametrize("tokens_per_step", [None, 2])
def test_a_canvas_is_decoded_as_by_hand(tokens_per_step: int | None) -> None:
    """The surest free positions, the end token left out before a fixed one; every pass over prompt and canvas alone."""
    model = Ending(seed=7)
    together = decode(model, [0, 1], tokens_per_step=tokens_per_step)
    for number, one in enumerate(together):
        ids, order = list(CANVASES[number]), []
        last = max(n for n, token in enumerate(ids) if token != BLANK)
        passes = 0
        while BLANK in ids:
            row = torch.tensor([PROMPTS[number] + ids])
            logits = model.full_logits(row, torch.ones_like(row, dtype=torch.bool))[0, len(PROMPTS[number]) :]
            logits[:last, END] = -torch.inf
            p = logits.softmax(-1)
            masked = sorted((-float(p[n].max()), n) for n in range(len(ids)) if ids[n] == BLANK)
            free = CANVASES[number].count(BLANK)
            steps = -(-free // (tokens_per_step or 1))
            count = free // steps + (passes < free % steps)
            for place in sorted(n for _, n in masked[:count]):
                ids[place] = int(p[place].argmax())
                order.append(place)
            passes += 1
        assert one.tokens == ids
        assert one.trace.position == order
        assert one.cost.mdm_passes == passes
        assert one.cost.mdm_tokens == passes * (len(PROMPTS[number]) + len(ids))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("anchor", ["sequence", "completion"])
def test_a_block_model_reads_the_fixed_tokens_up_to_its_block(anchor: str, cached: bool) -> None:
    denoiser, size, prompt = block_denoiser(4, anchor), 4, [1, 2, 3]
    canvas = [MASK, 5, MASK, MASK, 7, 8, 9, MASK, MASK, 11, MASK, 12]
    decoder = Decoder(
        denoiser,
        [prompt_of(prompt, 0, "0", canvas, MASK)],
        make_sampler(12, block_length=size),
        cache=PrefixCache(denoiser, 1) if cached else None,
    )
    ((one,),) = decoder.run()
    ids, trace = prompt + canvas, []
    blocks = blocks_of(len(prompt), len(ids), size, anchor)
    for block in sorted(set(blocks[len(prompt) :])):
        places = [n for n in range(len(prompt), len(ids)) if blocks[n] == block]
        while any(ids[n] == MASK for n in places):
            logits = logits_of(denoiser, ids[: places[-1] + 1], blocks[: places[-1] + 1]).clone()
            logits[:, EOS] = -torch.inf  # the canvas ends in a fixed token
            (place,) = surest({n: logits[n] for n in places if ids[n] == MASK})
            ids[place] = proposed(logits[place])
            trace.append(place - len(prompt))
    assert one.tokens == ids[len(prompt) :]
    assert one.trace.position == trace
