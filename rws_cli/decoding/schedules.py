"""Schedules: how many of the open positions a step commits, and which."""

from __future__ import annotations

import torch
from torch import Tensor


def commits_per_step(masked: int, steps: int) -> list[int]:
    """LLaDA's schedule: floor(masked / steps) tokens a step, one more on the first (masked mod steps) steps."""
    base, extra = divmod(masked, steps)
    return [base + (step < extra) for step in range(steps)]


def best(score_BG: Tensor, count_B: Tensor) -> Tensor:
    """The count_B highest scores of each row, as a mask (B, G); closed positions hold −inf and are never chosen.

    Ties go to the leftmost position, so that a choice never depends on a kernel's whim.
    """
    order_BG = score_BG.argsort(dim=-1, descending=True, stable=True)
    rank_BG = torch.empty_like(order_BG).scatter_(
        -1, order_BG, torch.arange(score_BG.shape[-1], device=score_BG.device).expand_as(order_BG)
    )
    return (rank_BG < count_B[:, None]) & (score_BG > -torch.inf)
