"""The diffusion loop: predict, guide, order, choose, commit; until no mask remains.

Only this file counts cost, moves rows from block to block and records traces; parts do none of these. Batching is
continuous: a row whose completion is done takes the next prompt at once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rws_cli.decoding.batch import Prompt, new_batch
from rws_cli.decoding.canvases import CanvasPredictor
from rws_cli.decoding.lookahead import Lookahead
from rws_cli.decoding.noise import mix
from rws_cli.decoding.predict import Predictor, Query
from rws_cli.decoding.protocols import Cache, Denoiser
from rws_cli.decoding.rank import PositionLogits, Ranker, greedy_tokens
from rws_cli.decoding.record import (
    LAST,
    Completion,
    Cost,
    RowTrace,
    charge,
    record_commits,
    record_remasks,
    shift_positions,
    to_host,
)
from rws_cli.decoding.speculate import Speculator
from rws_cli.decoding.step import Ranking, Step, step_of
from rws_cli.errors import RunError
from rws_cli.guidance.base import Guided
from rws_cli.models.topology import FULL

SWEEP = 1 << 40
"""Added to the random-number keys of later sweeps."""

OnStep = Callable[[int, list[RowTrace]], None]
"""Called after each step with the number of tokens that it committed and the traces of all rows."""

OnEnter = Callable[[dict[int, int]], None]
"""Called when prompts enter the batch: row → number of the prompt."""


@dataclass
class RowState:
    """What the host keeps for a row. number: of its prompt, −1 if unused; sweep: of a search that decodes a prompt
    several times; retained: in later sweeps, the trace of the last completion, which this row repeats."""

    number: int = -1
    sweep: int = 0
    retained: RowTrace | None = None


class Decoder:
    """Decodes prompts in the rows of a batch.

    prompts: the particles of one prompt are adjacent. scorer: a rewards.scorer.RowScorer, where a part needs a reward.
    rows: the rows of the batch; None: one for each prompt. most_rows: the rows of one forward pass; None: all. speculate:
    canvases of a row in a pass (decoding/speculate.py).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[Prompt],
        sampler: Any,
        scorer: Any = None,
        *,
        rows: int | None = None,
        most_rows: int | None = None,
        cache: Cache | None = None,
        speculate: int | str = 0,
    ) -> None:
        self.denoiser, self.prompts, self.sampler, self.scorer = denoiser, prompts, sampler, scorer
        self.particles, self.cache = sampler.search.particles, cache
        groups = len(prompts) // self.particles
        count = self.particles * max(1, min(groups, (rows or len(prompts)) // self.particles))
        for part in (sampler.order, sampler.schedule):
            part.prepare(sampler)
        self.steps_per_round = sampler.schedule.steps
        device, self.pad_id = getattr(denoiser, "device", "cpu"), getattr(denoiser, "pad_id", 0)
        longest = max(len(prompt.ids) for prompt in prompts)
        shape = (count, longest, sampler.gen_length, denoiser.mask_id, self.pad_id, device)
        self.batch = new_batch(*shape, getattr(denoiser, "topology", FULL), next(iter(denoiser.eos_ids), None))
        self.row_states = [RowState() for _ in range(count)]
        self.costs = [Cost() for _ in range(count)]
        self.traces = [RowTrace() for _ in range(count)]
        self.saved, self.saved_traces = self.batch.save(self.batch.retained_B), list(self.traces)
        self.lengths = [0] * count
        """Prompt lengths of the rows, in tokens."""
        self.done = [True] * count
        self.completions: Any = None
        self.ends: Any = None
        """Completion tokens (B, G) after the last step, and completion lengths (B,), on the host."""
        self.waiting = deque(range(groups))
        self.end_E = torch.tensor(denoiser.eos_ids).to(device)
        self.rank = Ranker(sampler, denoiser, self.end_E)
        predictor = Predictor(denoiser, sampler, most_rows or count, cache)
        self.lookahead = Lookahead(self, predictor, sampler.schedule.lookahead) if sampler.schedule.lookahead else None
        drafts = Speculator(self, predictor, speculate) if speculate else None
        self.predict: Predictor | CanvasPredictor = drafts or self.lookahead or predictor
        self.on_step: OnStep = lambda committed, traces: None
        self.on_enter: OnEnter = lambda rows: None

    def run(self) -> Iterator[list[Completion]]:
        """Yield the completions that each step finishes. Raises RunError if logits are not finite or a reward fails."""
        while self.enter():
            self.step()
            if completions := self.finished():
                yield completions

    @property
    def in_progress(self) -> list[int]:
        """Numbers of the prompts that are being decoded, each counted once."""
        return [p.number // self.particles for p in self.row_states[:: self.particles] if p.number >= 0]

    @property
    def rows_in_use(self) -> list[int]:
        return [row for row, state in enumerate(self.row_states) if state.number >= 0]

    @torch.inference_mode()
    def step(self) -> None:
        """One step of every row; METHODS.md, section 1, has it as pseudo-code."""
        b, s = self.batch, self.sampler
        record: dict[str, Tensor | None] = {"before": b.mask(s.schedule.remask_before(step_of(b)))}
        step = step_of(b, self.scorer)
        open_BG, shadow_BG = self.candidates(step), None
        chosen_BG = torch.zeros_like(open_BG)
        query, scale_N = self.query(step, open_BG), None
        with charge(self.costs, query.rows, "seconds"):
            if query.rows:
                logits_NV, shadow_BG = self.predict(b, query, self.lengths, self.costs)
                logits_NV = s.schedule.adjust(logits_NV, query.wanted_BG, step)
                record["finite"] = logits_NV.amax(-1).isfinite().all()
                predicted = self.rank.position_logits(b, query.wanted_BG, logits_NV)
                if query.weighs:
                    step, open_BG, query, predicted = self.weigh(step, open_BG, query, predicted)
            if query.rows:
                guided = s.guidance.guide(predicted, step)
                predicted, scale_N = self.select_ranked(predicted, guided, query)
                self.predict.remember(predicted, scale_N)
                ranking = self.rank(predicted, scale_N, open_BG, step)
                s.schedule.update(ranking, step)
                if self.lookahead:
                    ranking, chosen_BG = self.lookahead.decide(ranking, query, step)
                else:
                    chosen_BG = s.schedule.choose(ranking, step)
                chosen_BG = chosen_BG & ranking.ranked_BG & step.free_BG
                record |= {f"guidance.{name}": value for name, value in guided.record.items()}
                record |= self.commit(ranking, chosen_BG, predicted, step)
                s.search.committed(step, ranking.raw_BG.where(chosen_BG, 0.0).sum(-1))
                self.set_retained(query)
                if s.eos == "stop":
                    b.stop_after_end(self.end_E)
        if query.rows and scale_N is not None:  # the comparison at scale 1 is not counted as decoding time
            record |= self.rank.reversals(predicted, ranking, chosen_BG, step)
        record["after"] = b.mask(s.schedule.remask_after(chosen_BG, shadow_BG, step))
        if query.rows and s.schedule.grows:
            record |= b.insert(s.schedule.insertion(ranking, chosen_BG, step))
        record |= self.advance(step)
        if s.search.rolls_back:
            record |= self.roll_back()
        self.write_traces(record, query)

    def candidates(self, step: Step) -> Tensor:
        return self.sampler.schedule.candidates(step) & step.free_BG & step.live_B[:, None]

    def query(self, step: Step, open_BG: Tensor, wanted_BG: Tensor | None = None) -> Query:
        """The positions whose logits the step needs: open ones, and those that guidance, search and schedule read."""
        s, active_B = self.sampler, open_BG.any(1)
        due_B = s.search.due(step)
        if wanted_BG is None:
            wanted_BG = open_BG
            for reads_B in (s.guidance.reads_masked(step), due_B):
                if reads_B is not None:
                    wanted_BG = torch.where((active_B & reads_B)[:, None], step.all_masked_BG, wanted_BG)
            wanted_BG = (wanted_BG | s.schedule.feature_positions(step, open_BG)) & self.batch.reach()
            if self.cache:
                wanted_BG = self.cache.reach(wanted_BG, self.batch.inside_BG)
        ranked_BG = s.schedule.feature_positions(step, open_BG) & wanted_BG
        due_B = torch.zeros_like(active_B) if due_B is None else due_B & active_B
        columns = (active_B, wanted_BG.sum(1), ranked_BG.sum(1), due_B, step.number_B, self.batch.ends())
        table = torch.stack([column.long() for column in columns], 1).tolist()
        rows = [row for row, values in enumerate(table) if values[0]]
        wanted, read, due, numbers, ends = ([values[n] for values in table] for n in range(1, 6))
        return Query(rows, active_B, wanted_BG, ranked_BG, wanted, ends, sum(read), any(due), numbers)

    def weigh(
        self, step: Step, open_BG: Tensor, query: Query, predicted: PositionLogits
    ) -> tuple[Step, Tensor, Query, PositionLogits]:
        """Let the search resample particles; returns the step, open positions and logits of the resampled rows."""
        ancestor_B = self.sampler.search.weigh(predicted, step, open_BG.any(1))
        if ancestor_B is None:
            return step, open_BG, query, predicted
        parents = ancestor_B.tolist()
        self.copy_rows(ancestor_B)
        self.copy_traces(parents)
        starts = [sum(query.wanted[:row]) for row in range(len(parents))]
        index = [starts[a] + n for a in parents for n in range(query.wanted[a])]
        step = step_of(self.batch, self.scorer)
        open_BG = self.candidates(step)
        query = self.query(step, open_BG, query.wanted_BG[ancestor_B])
        logits_NV = predicted.logits_NV[torch.tensor(index, dtype=torch.int64).to(ancestor_B.device)]
        return step, open_BG, query, self.rank.position_logits(self.batch, query.wanted_BG, logits_NV)

    def select_ranked(
        self, predicted: PositionLogits, guided: Guided, query: Query
    ) -> tuple[PositionLogits, Tensor | None]:
        """The guided logits at the positions that the schedule reads, and their scales."""
        moved = guided.logits_NV is not predicted.logits_NV
        top_N = greedy_tokens(guided.logits_NV, self.sampler, self.batch.mask_id) if moved else predicted.top_N
        at_N = predicted.row_N, predicted.position_N
        predicted = PositionLogits(*at_N, guided.logits_NV, guided.order_logits_NV, top_N)
        if query.read == len(predicted.row_N):
            return predicted, guided.scale_N
        is_read_N = query.ranked_BG[predicted.row_N, predicted.position_N]
        index_R = is_read_N.to(torch.int8).argsort(descending=True, stable=True)[: query.read]
        return predicted.some(index_R), None if guided.scale_N is None else guided.scale_N[index_R]

    def commit(
        self, ranking: Ranking, chosen_BG: Tensor, predicted: PositionLogits, step: Step
    ) -> dict[str, Tensor | None]:
        """Write the chosen tokens into the batch; returns what the trace records about them."""
        b, p_BG = self.batch, ranking.raw_BG.exp()
        record: dict[str, Tensor | None] = {}
        if self.sampler.schedule.edits:
            record["edited_from"] = b.completion_BG.where(chosen_BG & ~b.masked_BG, -1)
        b.completion_BG.copy_(torch.where(chosen_BG, ranking.token_BG, b.completion_BG))
        b.commit_p_BG = torch.where(chosen_BG, p_BG, b.commit_p_BG)
        near_BG = self.rank.near_ties(predicted, ranking, chosen_BG, step)
        return record | {"chosen": chosen_BG, "token": ranking.token_BG, "confidence": p_BG, "near_tie": near_BG}

    def advance(self, step: Step) -> dict[str, Tensor | None]:
        """Move rows whose block is done: back into it where the remasking masked tokens, else to the next block."""
        b, s = self.batch, self.sampler
        b.index_B = b.index_B + 1
        step = step_of(b, self.scorer)
        ended_B = s.schedule.ended(step) & b.live_B
        if s.search.waits:
            over_BP, live_BP = (x_B.view(-1, self.particles) for x_B in (ended_B | ~b.live_B, b.live_B))
            ended_B = (over_BP.all(-1) & live_BP.any(-1)).repeat_interleave(self.particles)
        per_block = (1 + s.remasking.rounds) * self.steps_per_round
        record: dict[str, Tensor | None] = {}
        if s.remasking.rounds:
            number_B = (b.block_B * per_block + (b.round_B + 1) * self.steps_per_round).maximum(b.step_B)
            with charge(self.costs, self.rows_in_use, "seconds"):
                again_BG = s.remasking.again(step, ended_B & (b.round_B < s.remasking.rounds), number_B)
            record = {"remasking": b.mask(again_BG), "remasking_step": number_B}
            redone_B = again_BG.any(-1)
            inside_BG = (b.block_BG <= b.block_B[:, None]) & (b.block_BG > (b.block_B - s.remasking.window)[:, None])
            b.begin_block(redone_B, b.block_B, b.round_B + 1, number_B, inside_BG)
            ended_B = ended_B & ~redone_B
        if s.search.waits:
            ancestor_B = s.search.block_ended(step, ended_B, b.block_B * per_block)
            record["ancestor"] = ancestor_B
            self.copy_rows(ancestor_B)
        next_B = b.block_B + 1
        if s.eos == "stop_block":
            next_B = torch.where(b.stop_at_end(ended_B, self.end_E), b.blocks_B, next_B)
        if s.start_length is not None:
            next_B = b.lengthen(ended_B, next_B, self.end_E)
        number_B = (next_B * per_block).maximum(b.step_B)  # a block that is wider than others may take longer
        b.begin_block(ended_B, next_B, torch.zeros_like(next_B), number_B, b.block_BG == next_B[:, None])
        if self.cache:
            self.cache.begin(b.index_B == 0)
        return record

    def roll_back(self) -> dict[str, Tensor | None]:
        """Restore rows to the state that their search saved last, or began with; then save others."""
        b, search = self.batch, self.sampler.search
        used_B = torch.zeros_like(b.live_B).index_fill(0, torch.tensor(self.rows_in_use).to(b.key_B.device), True)
        back_B = search.rolled_back(step_of(b, self.scorer)) & used_B
        b.restore(self.saved, back_B)
        if self.cache:
            self.cache.begin(back_B)
        saved_B = search.saves(step_of(b, self.scorer)) & used_B
        self.saved = b.save(saved_B, self.saved)
        return {"back": back_B, "saved": saved_B}

    def copy_rows(self, ancestor_B: Tensor) -> None:
        """Give each row the state of its ancestor."""
        self.batch.copy_rows(ancestor_B)
        self.predict.copy_rows(ancestor_B)
        if self.cache:
            self.cache.copy_rows(ancestor_B)

    def set_retained(self, query: Query) -> None:
        """Put rows with a retained trace into the state that this trace had after the step."""
        following = [(row, trace) for row in query.rows if (trace := self.row_states[row].retained) is not None]
        if not following:
            return
        completion_BG, completions = self.batch.completion_BG, []
        for row, trace in following:
            prefix = trace.until(query.numbers[row])
            committed = dict(zip(prefix.position, prefix.token, strict=True))
            completions.append([row, *(committed.get(n, self.batch.mask_id) for n in range(completion_BG.shape[1]))])
        table = torch.tensor(completions).to(completion_BG.device)
        row_R, completion_RG = table[:, 0], table[:, 1:]
        is_free_RG = self.batch.free_BG[row_R]  # fixed tokens stay
        completion_BG[row_R] = torch.where(is_free_RG, completion_RG, completion_BG[row_R])

    def enter(self) -> bool:
        """Put waiting prompts into unused rows; returns whether any row is in use."""
        entering: dict[int, int] = {}
        for first in range(0, len(self.row_states), self.particles):
            if self.row_states[first].number < 0 and self.waiting:
                number = self.waiting.popleft() * self.particles
                entering |= {first + n: number + n for n in range(self.particles)}
        if entering:
            for row, number in entering.items():
                self.row_states[row], self.costs[row] = RowState(number), Cost()
            self.start(entering)
        return any(state.number >= 0 for state in self.row_states)

    @torch.inference_mode()
    def start(self, rows: dict[int, int]) -> None:
        """Put prompts into rows, with every completion token masked."""
        prompts = {}
        for row, number in rows.items():
            state, prompt = self.row_states[row], self.prompts[number]
            if state.sweep:
                prompt = replace(prompt, key=int(mix(torch.tensor(prompt.key) + state.sweep * SWEEP)))
            prompts[row], self.lengths[row] = prompt, len(prompt.ids)
            self.traces[row], self.saved_traces[row], self.done[row] = RowTrace(), RowTrace(), False
        self.batch.enter(prompts, self.pad_id, self.sampler.block_length)
        self.predict.forget(list(rows))
        retained = [state.retained is not None for state in self.row_states]
        self.batch.retained_B = torch.tensor(retained).to(self.end_E.device)
        if self.sampler.search.rolls_back:
            entered_B = torch.tensor([row in rows for row in range(len(self.row_states))]).to(self.end_E.device)
            self.saved = self.batch.save(entered_B, self.saved)
        self.on_enter(rows)

    @torch.inference_mode()
    def finished(self) -> list[Completion]:
        """Completions of the prompts whose particles are all done; their rows become unused or begin another sweep."""
        k, firsts = self.particles, range(0, len(self.row_states), self.particles)
        over = [n for n in firsts if self.row_states[n].number >= 0 and all(self.done[n : n + k])]
        rows = [row for first in over for row in range(first, first + k)]
        if not rows:
            return []
        with charge(self.costs, rows, "seconds"):
            chosen, scores = self.sampler.search.finish(step_of(self.batch, self.scorer), rows)
        completions, again = [], {}
        for first, best, few in zip(over, chosen, scores, strict=True):
            state, trace, cost = self.row_states[first], self.traces[best], sum(self.costs[first : first + k], Cost())
            if state.sweep + 1 < self.sampler.search.sweeps:
                for row in range(first, first + k):
                    again[row] = self.row_states[row].number
                    self.row_states[row] = RowState(again[row], state.sweep + 1, trace if row == first else None)
                continue
            tokens = list(map(int, self.completions[best][: int(self.ends[best])]))
            completions.append(Completion(state.number // k, tokens, trace, cost, few, best - first))
            self.row_states[first : first + k] = [RowState() for _ in range(k)]
        if again:
            self.start(again)
        return completions

    def write_traces(self, record: dict[str, Tensor | None], query: Query) -> None:
        """Copy the step's record to the host in one transfer and add it to the traces. Raises RunError for infinite logits."""
        b = self.batch
        record |= {"completions": b.completion_BG, "ends": b.length_B, "done": ~b.live_B}
        on_host = to_host(record)
        if not on_host.get("finite", True):
            raise RunError("The model returned logits that are not finite: check the checkpoint and model.dtype.")
        record_remasks(self.traces, on_host.get("before"), query.numbers)
        if "chosen" in on_host:
            record_commits(self.traces, on_host, query.numbers)
            for row in query.rows:
                if (retained := self.row_states[row].retained) is not None:
                    self.traces[row] = retained.until(query.numbers[row])
        shift_positions(self.traces, on_host.get("inserted_at"), on_host.get("inserted"))
        record_remasks(self.traces, on_host.get("after"), [number + 1 for number in query.numbers])
        if "remasking" in on_host:
            record_remasks(self.traces, on_host["remasking"], on_host["remasking_step"].astype(int).tolist())
        if "ancestor" in on_host:
            self.copy_traces(on_host["ancestor"].astype(int).tolist())
        for row in np.flatnonzero(on_host.get("back", [])).tolist():
            self.traces[row] = self.saved_traces[row].until(LAST)
        for row in np.flatnonzero(on_host.get("saved", [])).tolist():
            self.saved_traces[row] = self.traces[row].until(LAST)
        self.done, self.completions, self.ends = (on_host[name] for name in ("done", "completions", "ends"))
        if query.rows:
            self.on_step(int(on_host["chosen"].sum()) if "chosen" in on_host else 0, self.traces)

    def copy_traces(self, parents: list[int]) -> None:
        self.traces = [self.traces[a] if a == row else self.traces[a].until(LAST) for row, a in enumerate(parents)]
        if self.scorer:
            self.scorer.copy_rows(parents)
