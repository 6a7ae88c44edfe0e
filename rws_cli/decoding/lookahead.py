"""Lookahead: a step computes further canvases of its rows in one more pass, before it decides which tokens it commits.

The schedule says which canvases (`Schedule.branch`), and decides by the predictions on them (`Schedule.decide`). If a row
then continues with one of them, its next step has the logits already: a method whose steps always take one of their
canvases makes one pass per step.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rws_cli.decoding.canvases import CanvasPredictor
from rws_cli.decoding.predict import Query
from rws_cli.decoding.prediction import chunk_size, log_p_of
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.record import Cost
from rws_cli.decoding.step import Ahead, Branches, Ranking, Step, spread, step_of


class Lookahead(CanvasPredictor):
    """Computes the canvases of rows, and those further ones that a schedule compares."""

    def compute(
        self, missing: list[int], query: Query, prompt_lengths: list[int], costs: list[Cost]
    ) -> dict[int, Tensor]:
        if len(missing) < len(query.rows):
            active_B = torch.zeros_like(query.active_B)
            active_B[torch.tensor(missing).to(active_B.device)] = True
            query = replace(query, rows=missing, active_B=active_B)
        logits_NV, _ = self.predictor(self.decoder.batch, query, prompt_lengths, costs)
        return dict(zip(missing, logits_NV.split([query.wanted[row] for row in missing]), strict=True))

    def decide(self, ranking: Ranking, query: Query, step: Step) -> tuple[Ranking, Tensor]:
        """The ranking with the tokens to commit, and the positions (B, G) to commit, as the schedule decides."""
        schedule = self.decoder.sampler.schedule
        return schedule.decide(ranking, self.look(schedule.branch(ranking, step), ranking, query, step), step)

    def look(self, branches: Branches, ranking: Ranking, query: Query, step: Step) -> Ahead:
        """Predictions at the wanted positions of further canvases, from one pass."""
        d, batch = self.decoder, self.decoder.batch
        self.forget(query.rows)  # what was computed for this step
        shape = branches.completion_BKG.shape
        wanted_BKG = branches.wanted_BKG & (batch.reach() & query.active_B[:, None])[:, None]
        wanted_QG = wanted_BKG.flatten(0, 1)
        none_QG = torch.zeros_like(wanted_QG)
        table = wanted_BKG.sum(-1).tolist()
        computed = [(row, k, count) for row, counts in enumerate(table) for k, count in enumerate(counts) if count]
        token_QG, log_p_QG = none_QG.long(), none_QG.double()
        current_QG = log_p_QG if d.sampler.schedule.reads_current else None
        features_QGF = log_p_QG[..., None].expand(*none_QG.shape, *ranking.features_N.shape[1:])
        if computed:
            rows, counts = [row for row, _, _ in computed], [count for _, _, count in computed]
            index_S = torch.tensor([row * shape[1] + k for row, k, _ in computed]).to(wanted_QG.device)
            row_S = index_S // shape[1]
            several = batch.some_rows(row_S)
            several.completion_BG.copy_(branches.completion_BKG.flatten(0, 1)[index_S])
            several.index_B = several.index_B + 1  # the next step would draw these tokens
            ends = [query.ends[row] for row in rows]
            logits_NV = self.run(several, wanted_QG[index_S], rows, counts, ends, 0, d.lengths, d.costs)
            predicted = d.rank.position_logits(several, wanted_QG[index_S], logits_NV)
            token_N, log_p_N, _, _, _, features_N = d.rank.predict_all(predicted, None, step_of(several))
            place_N = index_S[predicted.row_N], predicted.position_N
            token_QG, log_p_QG, features_QGF = (
                spread(value_N, *place_N, none_QG, 0) for value_N in (token_N, log_p_N, features_N)
            )
            if current_QG is not None:
                current_N = current_log_p(predicted, step.tokens_BG[row_S[predicted.row_N], predicted.position_N])
                current_QG = spread(current_N, *place_N, none_QG, 0.0)
        return Ahead(
            branches.completion_BKG,
            wanted_BKG,
            token_QG.view(shape),
            log_p_QG.view(shape),
            features_QGF.reshape(*shape, *features_QGF.shape[2:]),
            None if current_QG is None else current_QG.view(shape),
        )


def current_log_p(predicted: PositionLogits, token_N: Tensor) -> Tensor:
    """The log-probabilities (N,), untempered, of some tokens."""
    size = chunk_size(predicted.logits_NV)
    chunks = zip(predicted.logits_NV.split(size), token_N.split(size), strict=True)
    return torch.cat([log_p_of(logits_nV, token_n) for logits_nV, token_n in chunks])
