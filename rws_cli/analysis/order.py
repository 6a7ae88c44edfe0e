"""Statistics of the generation order: how far from left to right a response was written.

Generation Order Deviation (GOD) is the RWS paper's measure (arXiv 2509.00707): higher is less autoregressive. Its
formula is not published. Its values of 0.8 to 2.3 say a mean absolute deviation, in tokens or in steps, so that is what
is offered here; the default, in tokens, is our choice and every output names it. AR-ness is DiffuCoder's
(arXiv 2506.20639).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rws_cli.analysis.statistics import mean

DEFAULT_GOD = "god_tokens"
AR_NESS_K = (1, 2, 4)


def order_statistics(
    positions: Sequence[int],
    steps: Sequence[int],
    block_length: int,
    keep: Sequence[bool] | None = None,
    offset: int = 0,
) -> dict[str, float | None]:
    """Order statistics of one response.

    positions, steps: for each committed token its position in the response and the step that committed it. keep: which
    tokens count (all, if not given); the others are left out before anything is ranked. offset: the place of position 0
    in its block, where blocks do not begin with the response. Within a step no token comes
    first: ranks are shared (midranks), and where a sequence is needed the tokens of a step stand in order of position.

    - god_tokens: mean |commit rank − position rank|, in tokens. 0 for left to right; (n² − 1)/(3n) expected of a
      random order of n tokens; n/2 (n even) or (n² − 1)/(2n) (n odd) for the reverse.
    - god_steps: mean |step − the step at which left-to-right decoding with the same number of commits at each step
      would have come to that token|, in steps that commit something.
    - god_tokens_in_block, god_steps_in_block: the same within each block of `block_length` positions, averaged over
      tokens, so that the order of blocks counts for nothing.
    - kendall_tau (tau-b), spearman: correlation of position and step; 1 is left to right. None where undefined.
    - local_ar_ness@k: the share of runs of k + 1 successive commits that are neighbors, left to right (p, p+1, …, p+k).
    - global_ar_ness@k: the share of commits at one of the k leftmost positions then open.
    - backward_share: the share of steps, after the first, whose mean position is left of the step before.
    - mean_jump: mean distance between successive commits, in positions.

    A statistic of which a response has no instance (no token, one step) is None. Raises ValueError if lengths differ
    or a position occurs twice.
    """
    if len(positions) != len(steps) or (keep is not None and len(keep) != len(positions)):
        raise ValueError("positions, steps and keep must have the same length.")
    if len(set(positions)) != len(positions):
        raise ValueError("A position occurs twice: each token is committed once.")
    mask = np.ones(len(positions), bool) if keep is None else np.asarray(keep, bool)
    position = np.asarray(positions, int)[mask]
    step = np.asarray(steps, int)[mask]
    order = np.lexsort((position, step))
    position, step = position[order], step[order]
    blocks = (position + offset) // block_length
    return {
        "god_tokens": _god_tokens(position, step),
        "god_steps": _god_steps(position, step),
        "god_tokens_in_block": _within(_god_tokens, position, step, blocks),
        "god_steps_in_block": _within(_god_steps, position, step, blocks),
        "kendall_tau": _kendall_tau(position, step),
        "spearman": _correlation(_midranks(position), _midranks(step)),
        **{f"local_ar_ness@{k}": _local_ar_ness(position, k) for k in AR_NESS_K},
        **{f"global_ar_ness@{k}": _global_ar_ness(position, k) for k in AR_NESS_K},
        "backward_share": _backward_share(position, step),
        "mean_jump": float(np.abs(np.diff(position)).mean()) if len(position) > 1 else None,
    }


def mean_statistics(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each statistic over the completions for which it is defined; None if there is none."""
    return {name: mean(row.get(name) for row in rows) for name in (rows[0] if rows else ())}


def _midranks(values: NDArray[np.int_]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[inverse]


def _god_tokens(position: NDArray[np.int_], step: NDArray[np.int_]) -> float | None:
    return float(np.abs(_midranks(step) - _midranks(position)).mean()) if len(position) else None


def _god_steps(position: NDArray[np.int_], step: NDArray[np.int_]) -> float | None:
    if not len(position):
        return None
    dense = np.unique(step, return_inverse=True)[1]
    left_to_right = np.sort(dense)[position.argsort().argsort()]
    return float(np.abs(dense - left_to_right).mean())


def _within(measure, position, step, blocks) -> float | None:
    if not len(position):
        return None
    total = 0.0
    for block in np.unique(blocks):
        inside = blocks == block
        total += measure(position[inside], step[inside]) * inside.sum()
    return float(total / len(position))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else None


def _kendall_tau(position: NDArray[np.int_], step: NDArray[np.int_]) -> float | None:
    """tau-b; positions are distinct, so only steps tie. Tokens come sorted by (step, position)."""
    later = np.triu(np.sign(step[None, :] - step[:, None]), 1)
    concordance = float((later * np.sign(position[None, :] - position[:, None])).sum())
    pairs, untied = len(position) * (len(position) - 1) / 2, float(later.sum())
    return concordance / float(np.sqrt(pairs * untied)) if untied else None


def _local_ar_ness(position: NDArray[np.int_], k: int) -> float | None:
    if len(position) <= k:
        return None
    follows = np.diff(position) == 1
    return float(np.lib.stride_tricks.sliding_window_view(follows, k).all(axis=1).mean())


def _global_ar_ness(position: NDArray[np.int_], k: int) -> float | None:
    if not len(position):
        return None
    open_positions = sorted(position.tolist())
    hits = 0
    for p in position.tolist():
        hits += p in open_positions[:k]
        open_positions.remove(p)
    return hits / len(position)


def _backward_share(position: NDArray[np.int_], step: NDArray[np.int_]) -> float | None:
    means = [position[step == s].mean() for s in np.unique(step)]
    return float((np.diff(means) < 0).mean()) if len(means) > 1 else None
