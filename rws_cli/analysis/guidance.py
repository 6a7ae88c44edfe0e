"""The effect of scaling logits on a decoding: temperatures, rank reversals, changed selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rws_cli.decoding.record import RowTrace


def guidance_statistics(trace: RowTrace) -> dict[str, Any] | None:
    """Of one response, over the steps that committed something; None where nothing scaled.

    - scale, temperature: means of r and of 1/r, the temperature that a step with scale r equals.
    - reversals: the share of pairs of open positions whose order the scale turned around.
    - changed_selections: the share of steps that committed other positions than a scale of 1 would have.
    - reversals_by_progress: (pairs, reversals) summed by the tenth of all commits that came before the step.
    """
    firsts = {step: n for n, step in reversed(list(enumerate(trace.step)))}
    steps = [
        (n, trace.scale[n], trace.pairs[n], trace.reversals[n], trace.changed_selection[n]) for n in firsts.values()
    ]
    used = [(n, s, p, v, o) for n, s, p, v, o in steps if s is not None and p is not None and v is not None]
    if not used:
        return None
    by_progress = [[0, 0] for _ in range(10)]
    for n, _, pairs, reversals, _ in used:
        tenth = by_progress[n * 10 // len(trace.step)]
        tenth[0] += pairs
        tenth[1] += reversals
    return {
        "scale": sum(s for _, s, *_ in used) / len(used),
        "temperature": sum(1 / s for _, s, *_ in used) / len(used),
        "reversals": _share(by_progress),
        "changed_selections": sum(bool(o) for *_, o in used) / len(used),
        "reversals_by_progress": by_progress,
    }


def mean_guidance(rows: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Means over completions. Reversals are shares of all pairs, also by tenth of progress (None: no pairs)."""
    steered = [row for row in rows if row]
    if not steered:
        return None
    by_progress = [[sum(row["reversals_by_progress"][n][k] for row in steered) for k in (0, 1)] for n in range(10)]
    means = {
        name: sum(row[name] for row in steered) / len(steered)
        for name in ("scale", "temperature", "changed_selections")
    }
    return means | {
        "reversals": _share(by_progress),
        "reversals_by_progress": [_share([tenth]) for tenth in by_progress],
    }


def _share(counts: list[list[int]]) -> float | None:
    pairs = sum(p for p, _ in counts)
    return sum(r for _, r in counts) / pairs if pairs else None
