"""Log likelihoods in as many rows as fit into memory."""

from collections.abc import Callable, Sequence
from typing import Any

from rws_cli.config.schema import Likelihood
from rws_cli.decoding.prediction import LOGIT_BYTES, MOST_ROWS
from rws_cli.errors import RunError, out_of_memory
from rws_cli.likelihood.score import LogLikelihood, Pair, log_likelihoods

GROUP = 64
"""Pairs that are scored again when memory runs out."""


def automatic_rows(vocabulary: int, pairs: Sequence[Pair]) -> int:
    """Initial rows: at most MOST_ROWS, and so few that their logits fit into LOGIT_BYTES."""
    longest = max((len(pair.continuation) for pair in pairs), default=1)
    return max(1, min(MOST_ROWS, LOGIT_BYTES // (4 * vocabulary * max(longest, 1))))


def score(
    denoiser: Any,
    pairs: Sequence[Pair],
    settings: Likelihood,
    seed: int,
    rows: int,
    notify: Callable[[str], None] = lambda line: None,
) -> list[LogLikelihood]:
    """As log_likelihoods, with half the rows whenever memory runs out; notify is then called with a line for the user.

    Raises RunError if a single row does not fit, or logits are not finite.
    """
    scores: list[LogLikelihood] = []
    while len(scores) < len(pairs):
        group = pairs[len(scores) : len(scores) + GROUP]
        try:
            scores += log_likelihoods(denoiser, group, settings, seed, rows)
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        if rows == 1:
            raise RunError(
                "Out of memory with a single row: use a shorter text, model.dtype=bfloat16, or a smaller model."
            )
        notify(f"out of memory with {rows} rows in a forward pass: continuing with {rows // 2}")
        rows //= 2
    return scores
