"""Further canvases that a step computes: their predictions, what they cost, and what later steps have of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FakeDenoiser, make_sampler

from rws_cli.decoding.batch import Prompt, prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion
from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import part as as_part
from rws_cli.part import setting
from rws_cli.schedules.base import Schedule, one


@as_part
class Peek(Schedule):
    """Commits the best token. At every `every`-th step of a block it looks at a canvas with the surest committed token
    masked again, and at one with the best token in its place; a row with an odd key looks at the second alone."""

    every: int = setting("steps from one look to the next", 1, min=1)

    lookahead = 2
    reads_current = True
    seen: Any = None

    def features(self, log_p_nV: torch.Tensor) -> torch.Tensor:
        return log_p_nV.amax(-1, keepdim=True)

    needs_all_log_probs = True

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        last_BG = one(step.commit_p_BG.masked_fill(~step.committed_BG, -torch.inf))
        best_BG = one(ranking.score_BG)
        masked_BG = step.tokens_BG.masked_fill(last_BG, step.mask_id)
        filled_BG = torch.where(best_BG, ranking.token_BG, step.tokens_BG)
        due_B = step.index_B % self.every == 0
        looks_BK = torch.stack([due_B & (step.key_B % 2 == 0), due_B], 1)
        wanted_BKG = torch.stack([last_BG, step.masked_BG & ~best_BG], 1)
        return Branches(torch.stack([masked_BG, filled_BG], 1), wanted_BKG & looks_BK[..., None])

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, torch.Tensor]:
        if self.seen is not None:
            self.seen.append((ahead, step.tokens_BG.clone(), step.number_B.clone()))
        return ranking, one(ranking.score_BG)


def decoder_of(prompts: int, length: int = 8, every: int = 1, **settings: Any) -> Decoder:
    schedule = Peek(kind="peek", every=every)
    schedule.seen = []
    sampler = make_sampler(length, **({"block_length": 4} | settings), schedule=schedule)
    rows = [prompt_of([1, 2, 3][: n + 1], 0, str(n)) for n in range(prompts)]
    rows = [Prompt(row.ids, 2 * (row.key // 2) + n % 2) for n, row in enumerate(rows)]
    return Decoder(FakeDenoiser(seed=3), rows, sampler)


def completions(decoder: Decoder) -> list[Completion]:
    return sorted((done for some in decoder.run() for done in some), key=lambda done: done.number)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_predictions_are_those_of_the_canvases(temperature: float) -> None:
    """Of the masks of one canvas the tokens that the next step proposes, of a masked token its own probability."""
    decoder = decoder_of(3, temperature=temperature)
    found = completions(decoder)
    model, compared, proposed = decoder.denoiser, 0, 0
    traces = [
        {(step, n): token for step, n, token in zip(t.step, t.position, t.token, strict=True)}
        for t in (done.trace for done in found)
    ]
    for ahead, tokens_BG, number_B in decoder.sampler.schedule.seen:
        for row, k, n in ahead.wanted_BKG.nonzero().tolist():
            ids = torch.tensor([[*decoder.prompts[row].ids, *ahead.completion_BKG[row, k].tolist()]])
            log_p = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, n - 8].log_softmax(-1)
            token = int(ahead.token_BKG[row, k, n])
            assert float(ahead.log_p_BKG[row, k, n]) == pytest.approx(float(log_p[token]), rel=1e-6)
            assert float(ahead.features_BKGF[row, k, n, 0]) == pytest.approx(float(log_p.max()), rel=1e-6)
            current = int(tokens_BG[row, n])
            assert float(ahead.current_log_p_BKG[row, k, n]) == pytest.approx(float(log_p[current]), rel=1e-5)
            committed = traces[row].get((int(number_B[row]) + 1, n))
            proposed += committed is not None
            assert k == 0 or committed in (None, token)
            compared += 1
    assert compared > 30
    assert proposed > 10


@pytest.mark.parametrize(("length", "block", "every"), [(8, 4, 1), (8, 4, 2), (8, 8, 3)])
def test_a_step_makes_no_pass_for_a_canvas_that_it_has_and_none_without_positions(
    length: int, block: int, every: int
) -> None:
    """By hand: a step passes its own canvas, unless the step before looked at it, and then what it looks at."""
    for row, done in enumerate(completions(decoder_of(2, length, every, block_length=block))):
        passes = canvases = 0
        has = False
        for n in range(block):
            passes, canvases = passes + (not has), canvases + (not has)
            has = n % every == 0 and n < block - 1  # the canvas after a block's last step has no masks
            ahead = has + (row == 0 and n % every == 0 and n > 0)  # the first row also masks its surest token again
            passes, canvases = passes + (ahead > 0), canvases + ahead
        blocks = length // block
        assert done.cost.mdm_passes == blocks * passes
        assert done.cost.mdm_rows == blocks * canvases
        assert done.cost.mdm_tokens == blocks * canvases * (row + 1 + length)


def test_rows_that_begin_another_prompt_have_no_canvases() -> None:
    apart = decoder_of(3)
    side_by_side = [(done.tokens, done.cost.mdm_passes, done.cost.mdm_rows) for done in completions(apart)]
    in_turn = decoder_of(3)
    alone = Decoder(in_turn.denoiser, in_turn.prompts, in_turn.sampler, rows=1)
    assert [(done.tokens, done.cost.mdm_passes, done.cost.mdm_rows) for done in completions(alone)] == side_by_side
