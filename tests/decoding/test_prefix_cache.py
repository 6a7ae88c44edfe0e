"""Block-causal decoding and its exact cache: the tokens of a slow reference, with and without the cache, in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_models import MASK, block_denoiser, decode_slowly, surest, two_surest
from support import Scored, make_sampler, part

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.decoding.statistics import Statistics
from rws_cli.models.topology import Topology

PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [16, 17, 18]]


def completions(
    denoiser: Any, sampler: Any, rows: int, cached: bool, prompts: Any = PROMPTS, speculate: int = 0
) -> list[Completion]:
    particles = sampler.search.particles
    rows_of = [prompt_of(ids, 0, f"{n} {k}") for n, ids in enumerate(prompts) for k in range(particles)]
    side_by_side = min(rows, len(prompts)) * particles
    cache = PrefixCache(denoiser, side_by_side) if cached else None
    decoder = Decoder(denoiser, rows_of, sampler, rows=side_by_side, cache=cache, speculate=speculate)
    statistics = Statistics(20.0, 4.0, 0.0, 40.0)
    decoder.scorer = Scored(lambda rows, tokens, *_: tokens.double().mean(1).tolist(), statistics, decoder.costs)
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("anchor", ["sequence", "completion"])
@pytest.mark.parametrize(("size", "tokens_per_step", "rule"), [(4, 1, surest), (4, 2, two_surest), (8, 1, surest)])
def test_tokens_are_those_of_a_slow_reference(
    size: int, tokens_per_step: int, rule: Any, anchor: str, rows: int, cached: bool
) -> None:
    denoiser = block_denoiser(size, anchor)
    sampler = make_sampler(16, block_length=size, tokens_per_step=tokens_per_step)
    for completion, prompt in zip(completions(denoiser, sampler, rows, cached), PROMPTS, strict=True):
        expected = decode_slowly(denoiser, prompt, 16, size, anchor, rule)
        if tokens_per_step == 1:
            assert list(zip(completion.trace.position, completion.trace.token, strict=True)) == expected
        else:  # the base schedule spreads an odd number of masks otherwise: their tokens are compared where blocks are whole
            whole = anchor == "completion" or len(prompt) % size == 0
            assert not whole or sorted(zip(completion.trace.position, completion.trace.token, strict=True)) == sorted(
                expected
            )


def test_cost_is_what_is_passed() -> None:
    """A block of 4 after a prompt of 5: 8 tokens first, then 4 for each further step, and 8 when the next block begins."""
    denoiser = block_denoiser(4)
    sampler = make_sampler(12, block_length=4)
    with_cache, without = (completions(denoiser, sampler, 1, cached, PROMPTS[:1])[0] for cached in (True, False))
    # Blocks of the completion: positions 0–2, 3–6, 7–10, 11 (one token of a block that ends after the completion).
    assert with_cache.cost.mdm_tokens == 8 + 4 + 4 + (8 + 4 * 3) + (8 + 4 * 3) + 5
    assert without.cost.mdm_tokens == 8 * 3 + 12 * 4 + 16 * 4 + 17
    assert with_cache.cost.mdm_passes == without.cost.mdm_passes == 12


SAMPLERS: dict[str, dict[str, Any]] = {
    "confidence": {},
    "random": {"order": "random"},
    "entropy, drawn": {"order": "entropy", "temperature": 1.0},
    "two tokens per step": {"tokens_per_step": 2},
    "threshold": {"schedule": part("schedule", "threshold", threshold=0.3)},
    "klass": {"schedule": part("schedule", "klass", threshold=0.2, kl=0.5)},
    "remdm": {"schedule": part("schedule", "remdm"), "temperature": 1.0},
    "sub-blocks": {"block_length": 2},
    "rws": {"guidance": part("guidance", "rws", form="exponential")},
    "best of n": {"search": part("search", "best_of_n", particles=2), "temperature": 1.0},
    "smc": {"search": part("search", "smc", particles=3), "temperature": 1.0},
    "fk": {"search": part("search", "fk", particles=3), "temperature": 1.0},
    "particle gibbs": {"search": part("search", "particle_gibbs", particles=2, sweeps=2), "temperature": 1.0},
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("anchor", "first_token", "shift"),
    [
        ("sequence", False, 0),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in (("completion", False, 0), ("sequence", True, 1))),
    ],
)
def test_the_cache_changes_no_token(name: str, anchor: str, first_token: bool, shift: int) -> None:
    denoiser = block_denoiser(4, anchor, first_token, shift)
    settings = {"block_length": 4} | SAMPLERS[name]
    expected = completions(denoiser, make_sampler(12, **settings), 1, False)
    for rows in (1, 4):
        for one, other in zip(expected, completions(denoiser, make_sampler(12, **settings), rows, True), strict=True):
            assert one.tokens == other.tokens
            assert (one.trace.position, one.trace.step) == (other.trace.position, other.trace.step)
            torch.testing.assert_close(
                torch.tensor(one.trace.confidence), torch.tensor(other.trace.confidence), atol=1e-5, rtol=1e-5
            )


def test_a_reward_sees_committed_blocks_and_predictions_for_the_open_one() -> None:
    denoiser, seen = block_denoiser(4, "completion"), []
    sampler = make_sampler(12, block_length=4, guidance=part("guidance", "rws", form="exponential"))
    decoder = Decoder(denoiser, [prompt_of([1, 2, 3], 0, "0")], sampler, rows=1, cache=PrefixCache(denoiser, 1))

    def score(rows: list[int], tokens: torch.Tensor, *_: Any) -> list[float]:
        seen.append(tokens[0].tolist())
        return [1.0]

    decoder.scorer = Scored(score, Statistics(0.0, 1.0, 0.0, 1.0), decoder.costs)
    (completion,) = next(decoder.run())
    assert len(seen) == 12
    for step, tokens in enumerate(seen):
        block = step // 4
        assert tokens[: 4 * block] == completion.tokens[: 4 * block]
        assert MASK not in tokens[: 4 * block + 4]
        assert set(tokens[4 * block + 4 :]) <= {MASK}


def test_topology_counts_blocks_off() -> None:
    whole = Topology(4, "sequence")
    assert whole.blocks(6, 4) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert whole.block_ends(6, 8, 4) == [2, 6, 8]
    assert Topology(4, "completion").blocks(6, 4) == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert Topology(4, "completion").block_ends(6, 8, 2) == [2, 4, 6, 8]
    assert Topology(8, "sequence", first_token=True).block_ends(12, 16, 4) == [4, 5, 8, 12, 13, 16]
    assert Topology(1, "sequence", first_token=True).block_ends(3, 3, 1) == [1, 2, 3]
    assert Topology().blocks(2, 3) == [0] * 5
