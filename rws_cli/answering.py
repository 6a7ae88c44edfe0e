"""From examples to samples: one copy of the model decodes batches, in as many rows as memory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rws_cli.analysis.order import order_statistics
from rws_cli.analysis.steering import steering
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config, EntrgiGuidance
from rws_cli.decoding.canvas import new_canvas
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.loop import OnStep
from rws_cli.decoding.record import Cost, RowTrace
from rws_cli.decoding.search import search
from rws_cli.errors import RunError, out_of_memory
from rws_cli.models.cache import BlockCache
from rws_cli.rewards.classifier import Classifier
from rws_cli.rewards.gradient import Mover
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.task import Parts, Task

MOST_ROWS, LOGIT_BYTES = 50, 2 << 30
"""For LLaDA-8B and 256 tokens that is 16 rows. What does not fit after all is halved."""


@dataclass
class Outcome:
    """What became of a batch: lines of samples.jsonl, rows of the trace, and by example why it failed."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.samples + other.samples, self.traces + other.traces, self.failures | other.failures)


class Answerer:
    """Decodes batches. rows: of one forward pass, halved when memory runs out; say: tells the user so."""

    def __init__(
        self,
        config: Config,
        task: Task,
        parts: Parts,
        say: Callable[[str], None] = lambda line: None,
        on_step: OnStep = lambda committed, traces: None,
    ) -> None:
        self.config, self.task, self.parts, self.say, self.on_step = config, task, parts, say, on_step
        self.rows = rows_at_once(config, task)

    def __call__(self, batch: list[Example]) -> Outcome:
        """Decode some examples, fewer at a time where memory does not suffice. Where a batch fails, each of its examples
        is decoded alone, so that only those fail that fail by themselves. Raises RunError if memory does not suffice for
        a single row."""
        outcome, waiting = Outcome(), list(batch)
        while waiting:
            some = waiting[: max(1, self.rows // self.config.sampler.particles)]
            short_of_memory = False
            try:
                outcome += decode_batch(self.config, self.task, self.parts, some, self.rows, self.on_step)
            except RunError as error:
                if len(some) == 1:
                    outcome.failures[some[0].id] = str(error)
                else:
                    for example in some:
                        outcome += self([example])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                short_of_memory = True
            if short_of_memory:  # outside of the except clause, so that what the error holds is freed
                self.halve()
            else:
                waiting = waiting[len(some) :]
        return outcome

    def halve(self) -> None:
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        if self.rows == 1:
            raise RunError(
                "Out of memory with a single row: use a smaller sampler.gen_length, model.dtype=bfloat16, a smaller model, "
                "or model.device_map=auto over several devices."
            )
        self.say(f"out of memory with {self.rows} rows in a forward pass: on with {self.rows // 2}")
        self.rows //= 2


def rows_at_once(config: Config, task: Task) -> int:
    """The rows of one forward pass. A search whose particles of one prompt are more than that takes several passes."""
    return 1 if config.runtime.deterministic else config.runtime.batch_size or automatic_batch(config, task)


def automatic_batch(config: Config, task: Task) -> int:
    """Rows to begin with: at most MOST_ROWS, and at most as many as have LOGIT_BYTES of logits if all is masked."""
    row_bytes = 4 * task.prepared.vocabulary * config.sampler.gen_length
    return max(1, min(MOST_ROWS, LOGIT_BYTES // row_bytes))


def decode_batch(
    config: Config,
    task: Task,
    parts: Parts,
    batch: list[Example],
    most_rows: int,
    on_step: OnStep = lambda committed, traces: None,
) -> Outcome:
    """Decode some examples together; most_rows: in one forward pass. Raises RunError if one of them fails."""
    sampler, denoiser, ids = config.sampler, parts.denoiser, [example.id for example in batch]
    rows = [example for example in batch for _ in range(sampler.particles)]
    canvas = new_canvas(
        [task.prepared.encode(e.prompt, e.history) if e.history else task.prompts[e.id] for e in rows],
        [f"{i} particle {n}" if n else i for i in ids for n in range(sampler.particles)],
        sampler.gen_length,
        denoiser.mask_id,
        denoiser.pad_id,
        config.seed,
        denoiser.device,
    )
    costs = [Cost() for _ in rows]
    scorer, mover = None, None
    if parts.reward:
        parts.reward.forget()
        # Without statistics only normalize=none gets here, which reads none of these.
        statistics = parts.statistics or Statistics(0.0, 1.0, 0.0, 1.0)
        scorer = RowScorer(parts.reward, renderer(denoiser, sampler), rows, costs, statistics)
    if isinstance(sampler.guidance, EntrgiGuidance):
        assert isinstance(parts.reward, Classifier)
        assert parts.map_V is not None
        mover = Mover(sampler.guidance, parts.reward, parts.map_V, denoiser.eos_ids, rows, costs, sampler.top_p)
    replayed = [parts.replayed[i] for i in ids] if parts.replayed else []
    kept, cache = config.runtime, None
    if kept.cache != "none":
        cache = BlockCache(denoiser, kept.cache, kept.cache_refresh, len(rows))
    found = search(
        denoiser, canvas, sampler, scorer, costs, on_step=on_step, replayed=replayed, mover=mover, pc=parts.pc,
        most_rows=most_rows, cache=cache,
    )  # fmt: skip

    answers_BG = canvas.response_BG[found.rows]
    rewards: list[float | None] = [None] * len(batch)
    if scorer:
        # Scoring what came out is measuring, not decoding: nobody is charged for it.
        scorer.costs = [Cost() for _ in rows]
        rewards = list(scorer(found.rows, answers_BG, [1.0] * len(batch), -1))
    traces = [
        {"id": i, **asdict(trace), "text": [parts.piece(token) for token in trace.token]}
        for i, trace in zip(ids, found.traces, strict=True)
    ]
    totals = [sum(costs[n : n + sampler.particles], Cost()) for n in range(0, len(rows), sampler.particles)]
    told = zip(batch, answers_BG.tolist(), rewards, found.traces, totals, found.scores, strict=True)
    return Outcome([_sample(config, parts, *one) for one in told], traces)


def _sample(
    config: Config,
    parts: Parts,
    example: Example,
    response: list[int],
    reward: float | None,
    trace: RowTrace,
    cost: Cost,
    particles: list[float],
) -> dict[str, Any]:
    """A line of samples.jsonl, not marked yet. `order` leaves end tokens out; `order_with_eos`
    counts them. Where tokens were masked again, orders are those of the last commits. length: tokens before the end.
    particles: a search's scores."""
    answer = parts.denoiser.text(response)
    last = sorted({position: n for n, position in enumerate(trace.position)}.values())
    position, step = [trace.position[n] for n in last], [trace.step[n] for n in last]
    content = [trace.token[n] not in parts.denoiser.eos_ids for n in last]
    block_length = config.sampler.block_length
    return {
        "id": example.id,
        "question": example.question or example.id,
        "history": example.history,
        "prompt": example.prompt,
        "answer": answer,
        "reference": example.reference,
        "mark": None,
        "reward": reward,
        "measures": {},
        "order": order_statistics(position, step, block_length, content),
        "order_with_eos": order_statistics(position, step, block_length),
        "steering": steering(trace),
        "tokens": response,
        "length": len(parts.denoiser.until_end(response)),
        "committed": len(trace.step),
        "masked_again": len(trace.step) - len(last),
        "near_ties": sum(trace.near_tie),
        "particles": particles,
        "cost": asdict(cost),
    }
