"""Log likelihoods against sums over all masks, chain rules and decoding, each computed by another way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from block_models import MASK, block_denoiser, blocks_of, logits_of
from support import FakeDenoiser, make_sampler
from torch import Tensor

from rws_cli.config.schema import Likelihood
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.errors import RunError
from rws_cli.likelihood.score import LogLikelihood, Pair, difference_error, log_likelihoods

ESTIMATORS = ("stratified", "antithetic", "coupled")
PROMPT, EIGHT = [1, 2, 3], [4, 0, 7, 7, 2, 9, 5, 1]


def one(denoiser: Any, context: list[int], continuation: list[int], name: str = "q", **settings: Any) -> LogLikelihood:
    return log_likelihoods(denoiser, [Pair(context, continuation, name)], Likelihood(**settings), 0, 16)[0]


def log_p_slowly(logits_LV: Tensor, columns: list[int], tokens: list[int]) -> float:
    return float(
        sum(logits_LV[column].double().log_softmax(-1)[token] for column, token in zip(columns, tokens, strict=True))
    )


def bound_slowly(denoiser: Any, context: list[int], continuation: list[int]) -> float:
    """The sum over all masks, one pass each: each of l tokens weighs 1/l over the number of such masks."""
    total, length = 0.0, len(continuation)
    for size in range(1, length + 1):
        for masked in itertools.combinations(range(length), size):
            ids = [*context, *(denoiser.mask_id if n in masked else token for n, token in enumerate(continuation))]
            row = torch.tensor([ids])
            logits = denoiser.full_logits(row, torch.ones_like(row, dtype=torch.bool))[0]
            columns = [len(context) + n for n in masked]
            total += log_p_slowly(logits, columns, [continuation[n] for n in masked]) / size / math.comb(length, size)
    return total


EXACT = bound_slowly(FakeDenoiser(), PROMPT, EIGHT)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_2000_draws_agree_with_the_sum_over_all_masks(estimator: str) -> None:
    pairs = [Pair(PROMPT, EIGHT, f"q-{n}", False) for n in range(20)]
    estimates = log_likelihoods(FakeDenoiser(), pairs, Likelihood(draws=100, estimator=estimator), 0, 64)
    mean = sum(estimate.log_p for estimate in estimates) / 20
    error = math.sqrt(sum(estimate.standard_error**2 for estimate in estimates)) / 20
    assert abs(mean - EXACT) < 4 * error
    assert 0 < error < 0.02 * abs(EXACT)


def test_a_short_continuation_is_scored_exactly_by_all_masks() -> None:
    denoiser = FakeDenoiser()
    estimate = one(denoiser, PROMPT, EIGHT, draws=255)
    assert estimate.log_p == pytest.approx(EXACT, abs=1e-9)
    assert estimate.standard_error == 0
    assert one(denoiser, PROMPT, EIGHT, draws=254).standard_error > 0
    assert one(denoiser, PROMPT, EIGHT[:1]).log_p == pytest.approx(bound_slowly(denoiser, PROMPT, EIGHT[:1]), abs=1e-9)
    assert one(denoiser, [], EIGHT[:3]).log_p == pytest.approx(bound_slowly(denoiser, [], EIGHT[:3]), abs=1e-9)
    assert one(denoiser, PROMPT, []) == LogLikelihood(0.0, 0.0, True, one(denoiser, PROMPT, []).cost)


class Joint(FakeDenoiser):
    """The exact conditionals of a random joint distribution of four tokens of three values, 3 being the mask."""

    def __init__(self) -> None:
        super().__init__(vocabulary=4, mask_id=3, eos_ids=(2,))
        joint = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.05
        self.joint = joint / joint.sum()

    def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
        logits = torch.full((*tokens_BL.shape, 4), -50.0, dtype=torch.float64)
        for row, tokens in enumerate(tokens_BL.tolist()):
            left = self.joint[tuple(slice(None) if token == 3 else slice(token, token + 1) for token in tokens)]
            for position, token in enumerate(tokens):
                if token == 3:
                    logits[row, position, :3] = left.sum([n for n in range(4) if n != position]).log()
        return logits


def test_with_consistent_conditionals_the_bound_is_the_likelihood() -> None:
    """Every order of the tokens then has the same product, so the bound is tight for each of the 81 texts."""
    model = Joint()
    texts = list(itertools.product(range(3), repeat=4))
    found = log_likelihoods(model, [Pair([], list(text), "q", False) for text in texts], Likelihood(), 0, 64)
    assert [estimate.log_p for estimate in found] == pytest.approx(
        [float(model.joint[t].log()) for t in texts], abs=1e-9
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_standard_error_is_the_spread_over_seeds(estimator: str) -> None:
    denoiser, settings = FakeDenoiser(), Likelihood(draws=32, estimator=estimator)
    pairs = [Pair(PROMPT, EIGHT, f"q-{n}", False) for n in range(120)]
    found = log_likelihoods(denoiser, pairs, settings, 1, 256)
    spread = torch.tensor([estimate.log_p for estimate in found], dtype=torch.float64).var()
    claimed = sum(estimate.standard_error**2 for estimate in found) / len(found)
    assert 0.75 < claimed / spread < 1.6
    inside = sum(abs(estimate.log_p - EXACT) < 1.96 * estimate.standard_error for estimate in found)
    assert inside > 0.88 * len(found)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_error_of_a_difference_counts_shared_masks(estimator: str) -> None:
    """Its spread over seeds is less than that of independent estimates, for texts that differ in one token."""
    other = [*EIGHT[:-1], 3]
    pairs = [Pair(PROMPT, ids, f"q-{n}", False) for n in range(120) for ids in (EIGHT, other)]
    found = log_likelihoods(FakeDenoiser(), pairs, Likelihood(draws=32, estimator=estimator), 1, 256)
    both = list(zip(found[::2], found[1::2], strict=True))
    spread = torch.tensor([a.log_p - b.log_p for a, b in both], dtype=torch.float64).var()
    assert 0.7 < sum(difference_error(a, b) ** 2 for a, b in both) / len(both) / spread < 1.7
    assert spread < 0.8 * sum(a.standard_error**2 + b.standard_error**2 for a, b in both) / len(both)
    shorter = one(FakeDenoiser(), PROMPT, EIGHT[:2])
    a = found[0]
    assert difference_error(a, shorter, 4.0) == a.standard_error / 4
    assert difference_error(a, a) == 0


def test_neither_batches_nor_other_pairs_change_an_estimate() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        Pair(
            torch.randint(0, 10, (int(torch.randint(0, 6, (1,), generator=generator)),), generator=generator).tolist(),
            torch.randint(0, 10, (1 + 3 * n,), generator=generator).tolist(),
            f"q-{n}",
        )
        for n in range(6)
    ]
    settings = Likelihood(draws=16)
    together = log_likelihoods(FakeDenoiser(), pairs, settings, 3, 7)
    alone = [log_likelihoods(FakeDenoiser(), [pair], settings, 3, 1)[0] for pair in pairs]
    for a, b in zip(together, alone, strict=True):
        assert a.log_p == pytest.approx(b.log_p, abs=1e-9)
        assert a.standard_error == pytest.approx(b.standard_error, abs=1e-9)
        assert (a.is_greedy, a.cost.mdm_passes, a.cost.mdm_tokens) == (
            b.is_greedy,
            b.cost.mdm_passes,
            b.cost.mdm_tokens,
        )
    assert one(FakeDenoiser(), PROMPT, EIGHT, draws=16) != one(FakeDenoiser(), PROMPT, EIGHT, "other", draws=16)


def test_rivals_of_a_length_share_their_masks() -> None:
    denoiser = FakeDenoiser()
    pairs = [Pair(PROMPT, EIGHT, "q", False), Pair(PROMPT, EIGHT[::-1], "q", False)]
    log_likelihoods(denoiser, pairs, Likelihood(draws=16), 0, 100)
    first, second = torch.cat(denoiser.calls).view(2, -1, 11)
    assert torch.equal(first == denoiser.mask_id, second == denoiser.mask_id)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_masks_of_an_estimator(estimator: str) -> None:
    """Counts are spread evenly; the two masks of a pair overlap in one token, or in none."""
    denoiser = FakeDenoiser()
    one(denoiser, [], EIGHT + EIGHT, draws=32, estimator=estimator)
    rows = torch.cat(denoiser.calls)[: 32 if estimator != "coupled" else 31]
    sizes = (rows == denoiser.mask_id).sum(1)
    if estimator == "stratified":
        assert set(sizes.tolist()) == set(range(1, 17))
    assert sizes.max() == 16


@pytest.mark.parametrize(
    ("size", "anchor", "first_token", "shift"),
    [(4, "sequence", False, 0), (4, "completion", False, 0), (4, "sequence", True, 1), (3, "completion", False, 1)],
)
def test_block_by_block(size: int, anchor: str, first_token: bool, shift: int) -> None:
    """The sum over blocks of the sum over masks, under an attention mask written entry by entry."""
    denoiser = block_denoiser(size, anchor, first_token, shift)
    context, continuation = [5, 6, 7, 8, 9], [1, 2, 3, 4, 11, 12, 13]
    ids = context + continuation
    blocks = blocks_of(len(context), len(ids), size, anchor)
    total = 0.0
    for block in sorted(set(blocks[len(context) :])):
        columns = [n for n in range(len(context), len(ids)) if blocks[n] == block]
        if first_token and blocks[columns[0]] != blocks[columns[0] - 1]:
            logits = logits_of(denoiser, ids[: columns[0]], blocks[: columns[0]])
            total += log_p_slowly(logits, [columns[0] - 1], [ids[columns[0]]])
            columns = columns[1:]
        for count in range(1, len(columns) + 1):
            for masked in itertools.combinations(columns, count):
                seen = [MASK if n in masked else token for n, token in enumerate(ids[: columns[-1] + 1])]
                logits = logits_of(denoiser, seen, blocks[: len(seen)])
                one_mask = log_p_slowly(logits, [n - shift for n in masked], [ids[n] for n in masked])
                total += one_mask / count / math.comb(len(columns), count)
    estimate = one(denoiser, context, continuation)
    assert estimate.log_p == pytest.approx(total, abs=1e-4)
    assert estimate.standard_error == 0


def test_a_causal_model_takes_one_pass_and_is_exact() -> None:
    denoiser = block_denoiser(1, "sequence", True, 1)
    context, continuation = [5, 6, 7], [1, 2, 3, 4]
    logits = logits_of(denoiser, context + continuation, list(range(7)))
    estimate = one(denoiser, context, continuation)
    assert estimate.log_p == pytest.approx(log_p_slowly(logits, [2, 3, 4, 5], continuation), abs=1e-4)
    assert (estimate.standard_error, estimate.is_greedy, estimate.cost.mdm_passes) == (0, False, 1)
    greedy: list[int] = []
    for _ in range(4):
        logits = logits_of(denoiser, context + greedy, list(range(3 + len(greedy))))[-1].clone()
        logits[MASK] = -torch.inf
        greedy.append(int(logits.argmax()))
    assert one(denoiser, context, greedy).is_greedy
    empty = one(denoiser, [], continuation)  # after the end token, as harnesses do
    assert empty.log_p == pytest.approx(one(denoiser, [denoiser.eos_ids[0]], continuation).log_p, abs=1e-5)


@pytest.mark.parametrize("denoiser", [FakeDenoiser(), block_denoiser(4), block_denoiser(4, "sequence", True, 1)])
def test_is_greedy_says_what_decoding_gives(denoiser: Any) -> None:
    """One token at a time by confidence, as the decoder does; and no text that differs in one token."""
    sampler = make_sampler(9, block_length=getattr(getattr(denoiser, "topology", None), "block_size", None) or 9)
    [[completion]] = Decoder(denoiser, [prompt_of(PROMPT, 0, "q")], sampler).run()
    greedy = completion.tokens
    others = [[*greedy[:n], (greedy[n] + 1) % 10, *greedy[n + 1 :]] for n in range(9)]
    pairs = [Pair(PROMPT, text, "q") for text in (greedy, *others)]
    found = log_likelihoods(denoiser, pairs, Likelihood(draws=4), 0, 4)
    assert [estimate.is_greedy for estimate in found] == [True, *[False] * 9]


def test_guidance_masks_the_context() -> None:
    denoiser = FakeDenoiser()

    def guided(ids: list[int]) -> Tensor:
        rows = torch.tensor([ids, [denoiser.mask_id] * 3 + ids[3:]])
        conditional, unconditional = denoiser.full_logits(rows, torch.ones_like(rows, dtype=torch.bool))
        return unconditional + 2.5 * (conditional - unconditional)

    total = 0.0
    for masked in ((0,), (1,), (0, 1)):
        ids = [*PROMPT, *(denoiser.mask_id if n in masked else EIGHT[n] for n in (0, 1))]
        total += log_p_slowly(guided(ids), [3 + n for n in masked], [EIGHT[n] for n in masked]) / 2
    estimate = one(denoiser, PROMPT, EIGHT[:2], cfg_scale=1.5)
    assert estimate.log_p == pytest.approx(total, abs=1e-9)
    assert estimate.cost.mdm_passes == 2 * 3 + 2  # with a step that shows that decoding differs


def test_cost_counts_rows_and_their_tokens() -> None:
    denoiser = FakeDenoiser()
    estimate = one(denoiser, PROMPT, EIGHT, draws=16)
    rows = torch.cat(denoiser.calls)
    assert estimate.cost.mdm_passes == len(rows)
    assert estimate.cost.mdm_tokens == 11 * len(rows)
    assert estimate.cost.seconds > 0


def test_logits_that_are_not_finite_are_refused() -> None:
    class Broken(FakeDenoiser):
        def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
            return super().full_logits(tokens_BL, attention_BL) * torch.nan

    with pytest.raises(RunError, match="not finite"):
        one(Broken(), PROMPT, EIGHT)
