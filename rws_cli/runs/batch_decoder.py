"""From examples to samples: one copy of the model decodes batches, in as many rows as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rws_cli.analysis.guidance import guidance_statistics
from rws_cli.analysis.order import order_statistics
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.cache import BlockCache
from rws_cli.decoding.loop import Completion, Decoder, OnStep
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError, out_of_memory
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.runs.prepared import Components, PreparedRun
from rws_cli.runs.records import RECORDED

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

    def rest(self, batch: list[Example]) -> list[Example]:
        """The examples of a batch that are neither done nor failed."""
        done = {sample["id"] for sample in self.samples} | self.failures.keys()
        return [example for example in batch if example.id not in done]


class BatchDecoder:
    """Decodes examples. rows: side by side, halved when memory runs out; say: tells the user so."""

    def __init__(
        self,
        config: Config,
        prepared: PreparedRun,
        components: Components,
        say: Callable[[str], None] = lambda line: None,
        on_step: OnStep = lambda committed, traces: None,
    ) -> None:
        self.config, self.prepared, self.components, self.say, self.on_step = config, prepared, components, say, on_step
        self.rows = rows_at_once(config, prepared)

    def __call__(self, examples: list[Example]) -> Iterator[Outcome]:
        """Outcomes as examples are finished. Where the decoding fails, each example in hand is decoded alone, so that only
        those fail that fail by themselves. Raises RunError if memory does not suffice for a single row."""
        waiting = list(examples)
        while waiting:
            done: set[str] = set()
            failure, in_progress = "", list(waiting[:1])
            attempt = Attempt(self.config, self.prepared, self.components, waiting, self.rows, self.on_step)
            try:
                for outcome in attempt.outcomes():
                    done |= {sample["id"] for sample in outcome.samples}
                    yield outcome
            except RunError as error:
                failure, in_progress = str(error), attempt.in_progress
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            waiting = [example for example in waiting if example.id not in done]
            if failure and len(in_progress) == 1:
                yield Outcome(failures={in_progress[0].id: failure})
            elif failure:
                alone = [outcome for example in in_progress for outcome in self([example])]
                yield sum(alone, Outcome())
            elif waiting:
                del attempt  # and what it holds
                self.halve()
            waiting = [example for example in waiting if not failure or example not in in_progress]

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


def rows_at_once(config: Config, prepared: PreparedRun) -> int:
    """The rows of one forward pass. A search whose particles of one prompt are more than that takes several passes."""
    return 1 if config.runtime.deterministic else config.runtime.batch_size or automatic_batch(config, prepared)


def automatic_batch(config: Config, prepared: PreparedRun) -> int:
    """Rows to begin with: at most MOST_ROWS, and at most as many as have LOGIT_BYTES of logits if all is masked."""
    row_bytes = 4 * prepared.model.vocabulary * config.sampler.gen_length
    return max(1, min(MOST_ROWS, LOGIT_BYTES // row_bytes))


class Attempt:
    """Examples being decoded, `rows` of them side by side."""

    def __init__(
        self,
        config: Config,
        prepared: PreparedRun,
        components: Components,
        examples: list[Example],
        rows: int,
        on_step: OnStep,
    ) -> None:
        self.config, self.components, self.examples = config, components, examples
        sampler, denoiser, particles = components.sampler, components.denoiser, config.sampler.search.particles
        prompts = [
            prompt_of(
                prepared.model.encode(e.prompt, e.history) if e.history else prepared.prompts[e.id],
                config.seed,
                f"{e.id} particle {n}" if n else e.id,
            )
            for e in examples
            for n in range(particles)
        ]
        self.scorer = None
        if components.reward:
            # Without statistics only normalize=none gets here, which reads none of these.
            statistics = components.statistics or Statistics(0.0, 1.0, 0.0, 1.0)
            self.scorer = RowScorer(components.reward, renderer(denoiser, sampler), statistics)
            components.reward.forget()
        side_by_side = max(rows // particles, 1) * particles
        kept, cache = config.runtime, None
        if kept.cache != "none":
            cache = BlockCache(denoiser, kept.cache, kept.cache_refresh, min(side_by_side, len(prompts)))
        self.decoder = Decoder(denoiser, prompts, sampler, self.scorer, rows=side_by_side, most_rows=rows, cache=cache)
        self.decoder.on_step, self.decoder.on_enter = on_step, self.enter
        self.finishing: list[Example] = []

    @property
    def in_progress(self) -> list[Example]:
        """The examples that an error may be due to."""
        return self.finishing or [self.examples[number] for number in self.decoder.in_progress]

    def enter(self, rows: dict[int, int]) -> None:
        """Examples take rows of the batch."""
        particles = self.config.sampler.search.particles
        examples = {row: self.examples[number // particles] for row, number in rows.items()}
        self.components.sampler.guidance.begin({row: example.id for row, example in examples.items()})
        if self.scorer:
            self.scorer.enter(examples)
            self.scorer.costs = self.decoder.costs

    def outcomes(self) -> Iterator[Outcome]:
        """What became of the examples that were finished at the same step. Raises RunError if one of those in hand fails."""
        for completions in self.decoder.run():
            self.finishing = [self.examples[completion.number] for completion in completions]
            yield self.outcome(completions)
            self.finishing = []

    def outcome(self, completions: list[Completion]) -> Outcome:
        rewards: list[float | None] = [None] * len(completions)
        if self.scorer:
            rewards = list(self.scorer.measured([(self.examples[c.number], c.tokens) for c in completions]))
        traces, samples = [], []
        for completion, reward in zip(completions, rewards, strict=True):
            example, trace = self.examples[completion.number], completion.trace
            recorded = {f"{RECORDED}{name}": values for name, values in trace.recorded.items()}
            pieces = [self.components.piece(token) for token in trace.token]
            traces.append({"id": example.id, **asdict(trace), **recorded, "text": pieces})
            samples.append(_sample(self.config, self.components, example, completion, reward))
        return Outcome(samples, traces)


def _sample(
    config: Config,
    components: Components,
    example: Example,
    completion: Completion,
    reward: float | None,
) -> dict[str, Any]:
    """A line of samples.jsonl, not graded yet. `order` leaves end tokens out; `order_with_eos`
    counts them. Where tokens were masked again, orders are those of the last commits. length: tokens before the end.
    particles: a search's scores."""
    response, trace = completion.tokens, completion.trace
    completion_text = components.denoiser.text(response)
    last = sorted({position: n for n, position in enumerate(trace.position)}.values())
    position, step = [trace.position[n] for n in last], [trace.step[n] for n in last]
    content = [trace.token[n] not in components.denoiser.eos_ids for n in last]
    block_length = config.sampler.block_length
    return {
        "id": example.id,
        "question": example.question or example.id,
        "history": example.history,
        "prompt": example.prompt,
        "completion": completion_text,
        "reference": example.reference,
        "grade": None,
        "reward": reward,
        "measures": {},
        "order": order_statistics(position, step, block_length, content),
        "order_with_eos": order_statistics(position, step, block_length),
        "guidance": guidance_statistics(trace),
        "tokens": response,
        "length": len(components.denoiser.until_end(response)),
        "committed": len(trace.step),
        "remasked": len(trace.step) - len(last),
        "near_ties": sum(trace.near_tie),
        "particles": completion.scores,
        "cost": asdict(completion.cost),
    }
