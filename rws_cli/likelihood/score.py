"""Log likelihoods of token sequences after contexts: bounds by masking, block by block where attention is by blocks, and
exact values where each token is predicted from those before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rws_cli.config.schema import Likelihood
from rws_cli.decoding.batch import AFTER
from rws_cli.decoding.noise import row_key
from rws_cli.decoding.predict import guided_logits
from rws_cli.decoding.prediction import chunk_size, likeliest, log_p_of
from rws_cli.decoding.record import Cost
from rws_cli.errors import RunError
from rws_cli.likelihood.masks import Masks, masks_of, most_masks
from rws_cli.models.topology import FULL, Topology

INTERVAL = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Pair:
    """A continuation to score after a context, as token ids. name: pairs of the same name share their random numbers, as
    the choices of a question should. greedy: whether to compute is_greedy, which costs a pass for each token until one
    differs from what would be decoded."""

    context: list[int]
    continuation: list[int]
    name: str
    greedy: bool = True


@dataclass(frozen=True)
class LogLikelihood:
    """log_p: of the continuation, in nats, or a lower bound of it. standard_error: of its estimate; 0 if it is exact.
    is_greedy: whether greedy decoding, one token at a time by confidence, gives the continuation; None if not computed.
    draws: where all tokens are masked together and masks were drawn, these and the sum of log p of each draw."""

    log_p: float
    standard_error: float
    is_greedy: bool | None
    cost: Cost
    draws: tuple[Masks, Tensor] | None = field(default=None, compare=False, repr=False)


def difference_error(a: LogLikelihood, b: LogLikelihood, over_a: float = 1.0, over_b: float = 1.0) -> float:
    """The standard error of a / over_a − b / over_b, which is less than that of independent estimates where both come from
    the same masks."""
    if a.draws and b.draws and torch.equal(a.draws[0].masked_DW, b.draws[0].masked_DW):
        masks, log_p_D = a.draws
        return math.sqrt(masks.estimate(log_p_D / over_a - b.draws[1] / over_b)[1])
    return math.hypot(a.standard_error / over_a, b.standard_error / over_b)


def perplexity(log_p: float, tokens: int) -> float:
    """exp of the mean −log p per token; at most e^700, which a float can hold."""
    return math.exp(min(-log_p / tokens, 700.0))


def together(scores: Sequence[LogLikelihood], lengths: Sequence[int]) -> dict[str, Any]:
    """The results of texts as those of one, for JSON and tables. lengths: their tokens, at least one in all.

    interval, perplexity_interval: 95 %, from the draws of masks alone.
    """
    log_p, tokens = sum(each.log_p for each in scores), sum(lengths)
    error = math.hypot(*(each.standard_error for each in scores))
    low, high = log_p - INTERVAL * error, log_p + INTERVAL * error
    cost = sum((each.cost for each in scores), Cost())
    return {
        "tokens": tokens,
        "log_likelihood": log_p,
        "standard_error": error,
        "interval": [low, high],
        "perplexity": perplexity(log_p, tokens),
        "perplexity_interval": [perplexity(end, tokens) for end in (high, low)],
        "mdm_passes": cost.mdm_passes,
        "mdm_tokens": cost.mdm_tokens,
        "seconds": cost.seconds,
    }


@torch.inference_mode()
def log_likelihoods(
    denoiser: Any, pairs: Sequence[Pair], settings: Likelihood, seed: int, rows: int
) -> list[LogLikelihood]:
    """The log likelihood of each pair, in their order. rows: of one forward pass.

    A result does not depend on the other pairs or on `rows`, except for rounding. Raises RunError if logits are not finite.
    """
    texts = [_Text(denoiser, pair, settings, seed) for pair in pairs]
    longest_first = sorted(texts, key=lambda text: -len(text.ids))
    scored = (row for text in longest_first for row in text.rows())
    while batch := list(islice(scored, rows)):
        _pass(denoiser, batch, settings.cfg_scale)
    walking = [text for text in longest_first if text.open_greedy()]
    while walking:
        for start in range(0, len(walking), rows):
            _pass(denoiser, [text.greedy_row() for text in walking[start : start + rows]], settings.cfg_scale)
        walking = [text for text in walking if text.open_greedy()]
    return [text.result() for text in texts]


def spans(topology: Topology, context: int, length: int) -> tuple[list[int], list[tuple[int, int]]]:
    """How a continuation of `length` tokens is factorized: the positions predicted from the tokens before them alone, and
    the spans (start, end) that are masked together, after which nothing is attended to."""
    if topology.block_size is None:
        return [], [(0, length)] if length else []
    number, size = topology.blocks(context, length), topology.block_size
    firsts, masked, start = [], [], 0
    for end in topology.block_ends(context, length, size) if length else []:
        column = context + start
        if topology.first_token and column and number[column] != number[column - 1]:
            firsts.append(start)
        else:
            masked.append((start, end))
        start = end
    return firsts, masked


def bound(topology: Topology, pair: Pair, settings: Likelihood) -> tuple[int, int]:
    """The most passes that scoring a pair takes, and the tokens in them."""
    firsts, masked = spans(topology, len(pair.context), len(pair.continuation))
    ends = [firsts[-1] + 1] if firsts else []
    for start, end in masked:
        ends += [end] * (most_masks(end - start, settings) + pair.greedy * (end - start))
    passes = 2 if settings.cfg_scale > 0 else 1
    return passes * len(ends), passes * sum(len(pair.context) + end for end in ends)


@dataclass(frozen=True)
class _Row:
    """A row of a forward pass. tokens: of the context and of the continuation, as far as the pass goes. wanted: columns
    where log p is computed. done: called with the log p of the true token in each, and with the log p of the likeliest
    token and whether that is the true one, if best is set."""

    text: _Text
    tokens: list[int]
    wanted: list[int]
    done: Callable[[list[float], list[float], list[bool]], None]
    best: bool = False


class _Text:
    """A pair while it is scored. ids: of context and continuation."""

    def __init__(self, denoiser: Any, pair: Pair, settings: Likelihood, seed: int) -> None:
        context = pair.context
        if not context and getattr(denoiser, "shift", None):  # the first token is predicted from one before it
            bos = getattr(denoiser.tokenizer, "bos_token_id", None)
            context = [denoiser.eos_ids[0] if bos is None else bos]
        self.ids, self.context, self.mask_id = [*context, *pair.continuation], len(context), denoiser.mask_id
        self.topology: Topology = getattr(denoiser, "topology", FULL)
        self.firsts, self.spans = spans(self.topology, len(context), len(pair.continuation))
        self.key, self.settings = row_key(seed, f"{pair.name} likelihood"), settings
        self.log_p, self.variance, self.cost, self.is_greedy = 0.0, 0.0, Cost(), True
        self.draws: tuple[Masks, Tensor] | None = None
        self.greedy = pair.greedy
        self.unmatched = [list(range(*span)) for span in self.spans if pair.greedy]
        """Positions of each span that greedy decoding has not reached yet."""

    def result(self) -> LogLikelihood:
        is_greedy = self.is_greedy if self.greedy else None
        return LogLikelihood(self.log_p, math.sqrt(self.variance), is_greedy, self.cost, self.draws)

    def row(self, end: int, masked: Sequence[int], wanted: Sequence[int], done: Any, best: bool = False) -> _Row:
        """A row that ends before position `end` of the continuation."""
        tokens = self.ids[: self.context + end]
        for position in masked:
            tokens[self.context + position] = self.mask_id
        return _Row(self, tokens, [self.context + position for position in wanted], done, best)

    def rows(self) -> Iterator[_Row]:
        """The rows of the estimate."""
        if self.firsts:

            def exact(log_p: list[float], best: list[float], is_best: list[bool]) -> None:
                self.log_p += math.fsum(log_p)
                self.is_greedy &= all(is_best)

            yield self.row(self.firsts[-1] + 1, [], self.firsts, exact, self.greedy)
        for start, end in self.spans:
            yield from self.rows_of_span(start, end)

    def rows_of_span(self, start: int, end: int) -> Iterator[_Row]:
        """A row for each mask that was drawn; equal masks share one."""
        masks = masks_of(end - start, start, self.key, self.settings)
        number_of: dict[tuple[bool, ...], int] = {}
        number_D = torch.tensor([number_of.setdefault(tuple(m), len(number_of)) for m in masks.masked_DW.tolist()])
        sums = [0.0] * len(number_of)
        waiting = sum(map(any, number_of))

        def done_with(number: int) -> Any:
            def done(log_p: list[float], best: list[float], is_best: list[bool]) -> None:
                nonlocal waiting
                sums[number], waiting = math.fsum(log_p), waiting - 1
                if not waiting:
                    log_p_D = torch.tensor(sums, dtype=torch.float64)[number_D]
                    mean, variance = masks.estimate(log_p_D)
                    if len(self.spans) == 1 and not self.firsts and not masks.exact:
                        self.draws = masks, log_p_D
                    self.log_p, self.variance = self.log_p + mean, self.variance + variance

            return done

        for mask, number in number_of.items():
            if any(mask):
                masked = [start + n for n, is_masked in enumerate(mask) if is_masked]
                yield self.row(end, masked, masked, done_with(number))

    def open_greedy(self) -> bool:
        """Whether greedy decoding has agreed with the continuation so far and is not at its end."""
        self.unmatched = [positions for positions in self.unmatched if positions] if self.is_greedy else []
        return bool(self.unmatched)

    def greedy_row(self) -> _Row:
        """The next step of greedy decoding, after steps that agreed with the continuation."""
        masked = self.unmatched[0]
        end = next(end for start, end in self.spans if start <= masked[0] < end)

        def done(log_p: list[float], best: list[float], is_best: list[bool]) -> None:
            most = max(range(len(best)), key=best.__getitem__)  # the leftmost of equals
            self.is_greedy = is_best[most]
            del masked[most]

        return self.row(end, masked, masked, done, True)


def _pass(denoiser: Any, rows: list[_Row], cfg_scale: float) -> None:
    """One forward pass, or two with classifier-free guidance. Raises RunError if logits are not finite."""
    started, passes = time.perf_counter(), 2 if cfg_scale > 0 else 1
    left = max(row.text.context for row in rows)
    right = max(len(row.tokens) - row.text.context for row in rows)
    pad_id, by_blocks = getattr(denoiser, "pad_id", 0), rows[0].text.topology.block_size is not None
    table, true = [], []
    for row in rows:
        before, behind = left - row.text.context, right - len(row.tokens) + row.text.context
        wanted = [0] * len(row.tokens)
        for column in row.wanted:
            wanted[column] = 1
        length = len(row.tokens) - row.text.context
        number = row.text.topology.blocks(row.text.context, length)
        table.append(
            [pad_id] * before + row.tokens + [pad_id] * behind
            + [0] * before + [1] * len(row.tokens) + [0] * behind
            + [0] * before + wanted + [0] * behind
            + [-1] * before + number + [AFTER] * behind
        )  # fmt: skip
        true += [row.text.ids[column] for column in row.wanted]
    device = getattr(denoiser, "device", "cpu")
    tokens_RL, seen_RL, wanted_RL, block_RL = torch.tensor(table).to(device).split(left + right, 1)
    blocks = {"block_BL": block_RL} if by_blocks else {}
    logits_NV = guided_logits(
        denoiser, cfg_scale, tokens_RL, seen_RL.bool(), wanted_RL.bool(), left, len(true), None, **blocks
    )
    best = any(row.best for row in rows)
    values = _log_probs(logits_NV, torch.tensor(true).to(device), denoiser.mask_id, best)
    finite, log_p, best_log_p, is_best = values.tolist()
    if not all(finite):
        raise RunError("The model returned logits that are not finite: check the checkpoint and model.dtype.")
    seconds, n = (time.perf_counter() - started) / len(rows), 0
    for row in rows:
        tokens = passes * len(row.tokens)
        row.text.cost += Cost(passes, tokens, seconds, seconds=seconds, mdm_rows=passes)
        some = slice(n, n := n + len(row.wanted))
        row.done(log_p[some], best_log_p[some], [value > 0 for value in is_best[some]])


def _log_probs(logits_NV: Tensor, true_N: Tensor, mask_id: int, best: bool) -> Tensor:
    """(4, N), float64: whether the logits are finite, log p of the true token, and, if `best`, log p of the likeliest one and
    whether it is the true one."""
    chunks, size = [], chunk_size(logits_NV)
    for z_nV, true_n in zip(logits_NV.split(size), true_N.split(size), strict=True):
        log_p_n = log_p_of(z_nV, true_n)
        finite_n = z_nV.amax(-1).isfinite() & log_p_n.isfinite()
        best_n, is_best_n = log_p_n, torch.zeros_like(log_p_n)
        if best:
            top_n = likeliest(z_nV, mask_id)
            best_n, is_best_n = log_p_of(z_nV, top_n), (top_n == true_n).double()
        chunks.append(torch.stack([finite_n.double(), log_p_n, best_n, is_best_n]))
    return torch.cat(chunks, 1)
