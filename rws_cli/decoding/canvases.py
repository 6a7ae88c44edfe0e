"""Canvases whose logits are computed before the step that needs them: drafts (speculate.py) and lookahead (lookahead.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rws_cli.decoding.batch import Batch
from rws_cli.decoding.predict import Predictor, Query
from rws_cli.decoding.record import Cost
from rws_cli.models.base import positions

if TYPE_CHECKING:
    from rws_cli.decoding.loop import Decoder


@dataclass(frozen=True)
class Canvas:
    """A computed canvas: its completion_G, and the logits (N, V) at the positions wanted_G."""

    completion_G: Tensor
    wanted_G: Tensor
    logits_NV: Tensor

    def some(self, wanted_G: Tensor, count: int) -> Tensor:
        """The logits at `count` of its positions."""
        if count == len(self.logits_NV):
            return self.logits_NV
        _, position_N = positions(self.wanted_G[None], len(self.logits_NV))
        index_n = wanted_G[position_N].to(torch.int8).argsort(descending=True, stable=True)[:count]
        return self.logits_NV[index_n]


class CanvasPredictor:
    """In place of a Predictor: a step whose canvas was computed earlier makes no pass.

    most: the most canvases of a row in a pass. canvases: of each row, those that its last pass computed for later steps.
    """

    def __init__(self, decoder: Decoder, predictor: Predictor, most: int) -> None:
        self.decoder = decoder
        self.predictor = replace(predictor, most_rows=predictor.most_rows * most)
        self.canvases: dict[int, list[Canvas]] = {}

    def remember(self, guided: Any, scale_N: Tensor | None) -> None:
        """Called with the guided logits and scales of each step."""

    def forget(self, rows: list[int]) -> None:
        """Forget the canvases of rows."""
        for row in rows:
            self.canvases.pop(row, None)

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row the canvases of its ancestor."""
        if self.canvases:
            parents = enumerate(ancestor_B.tolist())
            self.canvases = {row: self.canvases[parent] for row, parent in parents if parent in self.canvases}

    def __call__(
        self, batch: Batch, query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (N, V) at the wanted positions, as a Predictor gives them."""
        logits = self.computed(batch, query)
        missing = [row for row in query.rows if row not in logits]
        if missing:
            logits |= self.compute(missing, query, prompt_lengths, costs)
        every = [logits[row] for row in query.rows]
        return torch.cat(every) if len(every) > 1 else every[0], None

    def computed(self, batch: Batch, query: Query) -> dict[int, Tensor]:
        """The logits of the rows whose canvas was computed earlier, at all wanted positions."""
        pairs = [(row, canvas) for row in query.rows for canvas in self.canvases.get(row, [])]
        if not pairs:
            return {}
        row_S = torch.tensor([row for row, _ in pairs]).to(batch.key_B.device)
        completion_SG, wanted_SG = (
            torch.stack(tensors) for tensors in zip(*((c.completion_G, c.wanted_G) for _, c in pairs), strict=True)
        )
        same_S = (completion_SG == batch.completion_BG[row_S]).all(1)
        same_S &= ~(query.wanted_BG[row_S] & ~wanted_SG).any(1)
        return {
            row: canvas.some(query.wanted_BG[row], query.wanted[row])
            for (row, canvas), same in zip(pairs, same_S.tolist(), strict=True)
            if same
        }

    def compute(
        self, missing: list[int], query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> dict[int, Tensor]:
        """The logits of some rows, from a pass."""
        raise NotImplementedError

    def run(
        self,
        several: Batch,
        wanted_SG: Tensor,
        rows: Sequence[int],
        counts: list[int],
        ends: list[int],
        real: int,
        prompt_lengths: list[int],
        costs: list[Cost],
    ) -> Tensor:
        """The logits (N, V) of several canvases, from one pass; all but the first `real` are stored for later steps.

        rows: the row that each canvas belongs to; counts: the number of wanted positions of each canvas; ends: the column
        after the last one that its pass computes. A row is charged one pass, and every canvas and token.
        """
        active_S = torch.ones(len(rows), dtype=torch.bool, device=wanted_SG.device)
        query = Query(
            list(range(len(rows))), active_S, wanted_SG, wanted_SG, counts, ends, 0, False, [], (list(rows), real)
        )
        spent = [Cost() for _ in rows]
        logits_NV, _ = self.predictor(several, query, [prompt_lengths[row] for row in rows], spent)
        self.canvases |= {row: [] for row in rows}
        charged: set[int] = set()
        for n, (row, cost, logits_nV) in enumerate(zip(rows, spent, logits_NV.split(counts), strict=True)):
            if n >= real:
                self.canvases[row].append(Canvas(several.completion_BG[n], wanted_SG[n], logits_nV))
            if row in charged:
                cost.mdm_passes = 0  # of the same pass
            charged.add(row)
            costs[row] += cost
        return logits_NV
