"""CreditDecoding against a slow decoder with a full table of credits, written from the authors' rule."""

from __future__ import annotations

import math

import pytest
from decoding.test_methods import EXAMPLE, PROMPT, SEED, Slow, fast, surest
from support import FakeDenoiser, decode, make_sampler, new_canvas, part
from torch import Tensor, tensor

from rws_cli.config.composing import compose
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import UsageError


def softmax(values: list[float]) -> list[float]:
    most = max(values)
    exps = [math.exp(value - most) for value in values]
    return [e / sum(exps) for e in exps]


def unsure(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.3
    return model


def decode_slowly(slow: Slow, block: int, weight: float, decay: float, power: float, threshold: float) -> int:
    """Fills slow.x; returns how many proposals credits changed."""
    gen, vocabulary, changed = len(slow.x), slow.model.vocabulary, 0
    for start in range(0, gen, block):
        where, index = list(range(start, start + block)), 0
        credit = {i: [0.0] * vocabulary for i in where}
        while slow.masked(where):
            seen = slow.look(start + index, where)
            raised = {}
            for i, one in seen.items():
                top = max((t for t in range(vocabulary) if t != slow.model.mask_id), key=lambda t: one["p"][t])
                credit[i] = [decay * c for c in credit[i]]
                credit[i][top] += one["p"][top] ** power
                z = [logit + weight * math.log(1 + c) for logit, c in zip(one["z"], credit[i], strict=True)]
                raised[i] = slow.propose(tensor(z, dtype=slow.last.dtype), start + index, i)
                assert raised[i]["p"] == pytest.approx(softmax(z))
                changed += raised[i]["token"] != one["token"]
            slow.commit(raised, [i for i in raised if raised[i]["c"] >= threshold] or surest(raised)[:1])
            index += 1
    return changed


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("weight", "decay", "power"), [(0.7, 0.8, 0.2), (3.0, 1.0, 1.0), (1.5, 0.0, 0.0)])
def test_credits_are_those_of_the_published_rule(weight: float, decay: float, power: float, temperature: float) -> None:
    passes = plain = changed = 0
    for seed in range(2):
        for gen, block in ((8, 8), (9, 3)):
            model = unsure(seed)
            slow = Slow(model, PROMPT, gen, temperature)
            changed += decode_slowly(slow, block, weight, decay, power, 0.5)
            guidance = part("guidance", "credit", weight=weight, decay=decay, power=power)
            settings = {"block_length": block, "temperature": temperature}
            settings["schedule"] = part("schedule", "threshold", threshold=0.5)
            tokens, trace = fast(model, PROMPT, gen, guidance=guidance, **settings)
            assert tokens == slow.x
            passes += len(set(trace.step))
            plain += len(set(fast(model, PROMPT, gen, **settings)[1].step))
    assert passes < plain or (weight, temperature) == (0.7, 0.8)  # credits raise confidence
    assert changed or weight < 3


def test_without_weight_it_is_the_threshold_alone() -> None:
    for seed in range(3):
        model, schedule = unsure(seed), part("schedule", "threshold", threshold=0.5)
        plain, credited = (
            fast(model, PROMPT, 12, block_length=6, guidance=guidance, schedule=schedule)
            for guidance in (part("guidance", "none"), part("guidance", "credit", weight=0.0))
        )
        assert plain[0] == credited[0]
        assert plain[1].step == credited[1].step


class Alternating(FakeDenoiser):
    """Half of the passes prefer token 1, the others token 2; each position is a little surer than the one before it."""

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, *_: object) -> Tensor:
        masks_N = (tokens_BL == self.mask_id).sum(1)[wanted_BL.nonzero()[:, 0]]
        logits_NV = tensor([[0.0] * self.vocabulary] * len(masks_N)).double()
        logits_NV[range(len(masks_N)), 1 + masks_N % 2] = 2.0 + wanted_BL.nonzero()[:, 1].double() / 100
        return logits_NV


def test_a_block_begins_without_credits_also_when_it_is_decoded_again() -> None:
    """The first step of each block has the credits of that step alone, in whatever batch."""
    model = Alternating()
    first = math.log(1 + softmax([2.11] + [0.0] * 11)[0] ** 0.2)
    confidence = softmax([2.11 + 5.0 * first] + [0.0] * 11)[0]
    again = part("remasking", "r3", rounds=1, threshold=1.0)
    settings = {"block_length": 4, "guidance": part("guidance", "credit", weight=5.0)}
    for others in (0, 2):
        prompts = [[1] * 4, *[[1] * (n + 1) for n in range(others)]]
        canvas = new_canvas(prompts, [EXAMPLE, *map(str, range(others))], 8, model.mask_id, 0, SEED)
        trace = decode(model, canvas, make_sampler(8, **settings, remasking=again), Low())[0]
        begins = [n for n, step in enumerate(trace.step) if step in (8, 12)]  # of the second block, and again
        assert [trace.position[n] for n in begins] == [7, 7]
        assert [trace.confidence[n] for n in begins] == pytest.approx([confidence, confidence])


class Low:
    """A reward that never is enough."""

    statistics = Statistics(mean=0.0, std=1.0, min=-9.0, max=9.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return [-9.0] * len(rows)


def test_credits_are_refused_where_tokens_are_remasked() -> None:
    with pytest.raises(UsageError, match=r"credit does not work with sampler\.schedule\.kind=refine"):
        compose("sampler=remdm_llada", "guidance=credit")
