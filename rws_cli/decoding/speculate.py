"""Lossless speculation: one forward pass computes a canvas and those that the next steps will probably reach.

A step is a function of its canvas, the logits there, and hashed random numbers. So before a pass, the steps to come are
drafted with the logits of the step before, and the drafted canvases are further rows of the pass. A later step whose canvas
was drafted makes no pass. Whatever is drafted, tokens are those of decoding without speculation, except that rounding may
depend on the rows of a pass; and no step makes more than one pass.

FreeDave (arXiv 2510.00294) and SSD (2510.04147) do so for greedy decoding with a fixed number of tokens per step. Here any
order, schedule, temperature, or guidance may be drafted, because all random numbers are hashed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch, joined
from rws_cli.decoding.canvases import CanvasPredictor
from rws_cli.decoding.predict import Predictor, Query
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.record import Cost
from rws_cli.decoding.step import step_of
from rws_cli.models.base import positions

if TYPE_CHECKING:
    from rws_cli.decoding.loop import Decoder


DEPTHS = (1, 2, 4, 8)
"""What runtime.speculate=auto tries, one after the other."""
WARM_UP, TRIAL, MOST_LOST = 2, 12, 2.0
"""Steps of a trial that are not measured, because passes of new shapes begin slowly; steps that are; and the plain steps
whose time a trial may lose before it ends."""


@dataclass
class Depth:
    """The depth that takes the fewest seconds per step: each of DEPTHS is tried for some steps, while it helps.

    seconds: per step at each depth that was tried. depth: the present one, which stays when `left` is empty.
    """

    depth: int = DEPTHS[0]
    left: list[int] = field(default_factory=lambda: list(DEPTHS[1:]))
    seconds: dict[int, float] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)
    warm_up: int = WARM_UP
    started: float | None = None

    def step(self, now: float) -> int:
        """Called as each step begins; returns the depth to use."""
        if self.started is not None and (self.left or self.depth not in self.seconds):
            self.observe(now - self.started)
        self.started = now
        return self.depth

    def observe(self, seconds: float) -> None:
        """The time of a step at the present depth."""
        if self.warm_up:
            self.warm_up -= 1
            return
        self.spent.append(seconds)
        plain = self.seconds.get(DEPTHS[0], float("inf"))
        lost = sum(self.spent) - plain * len(self.spent) > MOST_LOST * plain
        if len(self.spent) < TRIAL and not lost:
            return
        self.seconds[self.depth], self.spent = sum(self.spent) / len(self.spent), []
        best = min(self.seconds, key=self.seconds.__getitem__)
        if best == self.depth and self.left:
            self.depth, self.warm_up = self.left.pop(0), WARM_UP
        else:
            self.depth, self.left = best, []


def canvases(depth: int | str) -> int:
    """The most canvases of a row in one pass. depth: runtime.speculate."""
    return DEPTHS[-1] if isinstance(depth, str) else max(1, depth)


class Speculator(CanvasPredictor):
    """depth: canvases of a row in a pass, its own and at most depth − 1 drafts; "auto": what is fastest.

    last: the guided logits and scales of the last step.
    """

    def __init__(self, decoder: Decoder, predictor: Predictor, depth: int | str) -> None:
        self.chosen, self.depth = Depth() if depth == "auto" else None, canvases(depth)
        super().__init__(decoder, predictor, self.depth)
        self.last: tuple[PositionLogits, Tensor | None] | None = None

    def remember(self, guided: PositionLogits, scale_N: Tensor | None) -> None:
        """Keep the guided logits and scales of a step to draft the next ones with."""
        self.last = (guided, scale_N) if self.depth > 1 else None

    def forget(self, rows: list[int]) -> None:
        self.last = None
        super().forget(rows)

    def __call__(
        self, batch: Batch, query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> tuple[Tensor, Tensor | None]:
        if self.chosen:
            self.depth = self.chosen.step(time.perf_counter())
        return super().__call__(batch, query, prompt_lengths, costs)

    def compute(
        self, missing: list[int], query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> dict[int, Tensor]:
        """One pass over the canvases of some rows and their drafts; returns the logits of their own canvases."""
        batch = self.decoder.batch
        index_R = torch.tensor(missing).to(batch.key_B.device)
        parts = [(missing, batch.some_rows(index_R), query.wanted_BG[index_R])]
        counts, ends = ([values[row] for row in missing] for values in (query.wanted, query.ends))
        for drafted in self.draft(missing):
            rows = drafted.rows
            parts.append((rows, *drafted.canvases))
            counts += [drafted.wanted[row] for row in rows]
            ends += [drafted.ends[row] for row in rows]
        sources = [row for rows, _, _ in parts for row in rows]
        several, wanted_SG = joined([part for _, part, _ in parts]), torch.cat([wanted for _, _, wanted in parts])
        logits_NV = self.run(several, wanted_SG, sources, counts, ends, len(missing), prompt_lengths, costs)
        return dict(zip(missing, logits_NV.split(counts)[: len(missing)], strict=True))

    def draft(self, missing: list[int]) -> list[Drafted]:
        """The canvases that some rows would reach if logits stayed those of the last step."""
        if self.last is None or self.depth == 1:
            return []
        decoder, levels = self.decoder, list[Drafted]()
        batch = decoder.batch
        active_B = torch.zeros_like(batch.live_B)
        active_B[torch.tensor(missing).to(active_B.device)] = True
        decoder.batch = batch.copy()
        try:
            for _ in range(self.depth - 1):
                active_B = self.commit(active_B, *self.last)
                drafted = self.next_canvases(active_B)
                if not drafted.rows:
                    break
                levels.append(drafted)
        finally:
            decoder.batch = batch
        return levels

    def commit(self, active_B: Tensor, last: PositionLogits, scale_N: Tensor | None) -> Tensor:
        """Draft a step of the active rows, up to the next one; returns the rows (B,) that could be drafted."""
        d, b, s = self.decoder, self.decoder.batch, self.decoder.sampler
        step = step_of(b, d.scorer)
        open_BG = d.candidates(step) & active_B[:, None]
        read_BG = s.schedule.feature_positions(step, open_BG)
        place_BG = torch.full(open_BG.shape, -1, device=active_B.device)
        place_BG[last.row_N, last.position_N] = torch.arange(len(last.row_N), device=active_B.device)
        active_B = open_BG.any(1) & ~(read_BG & (place_BG < 0)).any(1)
        row_n, position_n = positions(read_BG & active_B[:, None], None)
        if not len(row_n):
            return active_B
        index_n = place_BG[row_n, position_n]
        open_BG = open_BG & active_B[:, None]
        ranking = d.rank(last.some(index_n), None if scale_N is None else scale_N[index_n], open_BG, step)
        s.schedule.update(ranking, step)
        chosen_BG = s.schedule.choose(ranking, step) & ranking.ranked_BG & step.free_BG & active_B[:, None]
        b.completion_BG.copy_(torch.where(chosen_BG, ranking.token_BG, b.completion_BG))
        b.commit_p_BG = torch.where(chosen_BG, ranking.raw_BG.exp(), b.commit_p_BG)
        if s.eos == "stop":
            b.stop_after_end(d.end_E)
        b.mask(s.schedule.remask_after(chosen_BG, None, step))
        if s.remasking.rounds or s.search.waits:  # what happens at the end of a block is not drafted
            b.index_B = b.index_B + 1
            active_B = active_B & ~s.schedule.ended(step_of(b, d.scorer))
        else:
            d.advance(step)
        b.mask(s.schedule.remask_before(step_of(b)))
        return active_B & b.live_B

    def next_canvases(self, active_B: Tensor) -> Drafted:
        """The canvases of the active rows as the next step would pass them."""
        d, b = self.decoder, self.decoder.batch
        step = step_of(b, d.scorer)
        query = d.query(step, d.candidates(step) & active_B[:, None])
        index_R = torch.tensor(query.rows, dtype=torch.int64).to(active_B.device)
        return Drafted(query.rows, (b.some_rows(index_R), query.wanted_BG[index_R]), query.wanted, query.ends)


@dataclass(frozen=True)
class Drafted:
    """Drafted canvases of some rows: a batch of them, and their wanted positions (R, G). wanted: the number of these in each
    row of the whole batch; ends: the column after the last one that its pass computes."""

    rows: list[int]
    canvases: tuple[Batch, Tensor]
    wanted: list[int]
    ends: list[int]
