"""R3 (arXiv 2507.08018): finished blocks are scored, and masked again in proportion to how badly they did.

The specification at hand says that blocks with a low score are proportionally masked again and redone; the map from
score to share, and which tokens go, are options of ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rws_cli.config.schema import R3Review
from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.guidance import normalize
from rws_cli.decoding.noise import everywhere
from rws_cli.decoding.prediction import ORDER, PURPOSES, REMASK
from rws_cli.decoding.protocols import Scorer
from rws_cli.decoding.schedules import best


def review(
    settings: R3Review,
    canvas: Canvas,
    scorer: Scorer,
    psi_BG: Tensor,
    rows: list[int],
    block: int,
    length: int,
    step: int,
) -> Tensor:
    """Positions to mask again (B, G) in some rows, of the last `window` blocks up to `block`.

    A block's score r is the reward of the answer as far as the block's end, as the logistic function of its z-score.
    Where r < threshold, round((1 − r)·length) of its tokens go: those that were least sure when they were committed
    (`confidence`), or any (`random`).
    """
    again_BG = torch.zeros_like(canvas.masked_BG)
    if settings.choose == "random":
        keep_BG = everywhere(canvas.key_B, step * PURPOSES + ORDER, again_BG.shape[1], REMASK)
    else:
        keep_BG = psi_BG
    for number in range(max(0, block + 1 - settings.window), block + 1):
        end = (number + 1) * length
        shown_BG = canvas.response_BG[rows]
        shown_BG[:, end:] = canvas.mask_id
        filled = end / shown_BG.shape[1]
        scores = scorer(rows, shown_BG, [filled] * len(rows), step)
        count_B = torch.zeros(len(again_BG), dtype=torch.int64, device=again_BG.device)
        for row, score in zip(rows, scores, strict=True):
            r = normalize(score, "sigmoid", scorer.statistics)
            count_B[row] = round((1 - r) * length) if r < settings.threshold else 0
        score_BG = torch.full(again_BG.shape, -torch.inf, dtype=torch.float64, device=again_BG.device)
        score_BG[:, end - length : end] = -keep_BG[:, end - length : end]
        again_BG |= best(score_BG, count_B)
    return again_BG
