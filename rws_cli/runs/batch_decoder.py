"""Decode examples with one copy of the model, in as many rows as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from rws_cli.analysis.guidance import guidance_statistics
from rws_cli.analysis.order import order_statistics
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config, Runtime
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.cache import BlockCache
from rws_cli.decoding.loop import Decoder, OnStep
from rws_cli.decoding.prediction import LOGIT_BYTES, MOST_ROWS
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.protocols import Cache
from rws_cli.decoding.record import Completion, RowTrace
from rws_cli.decoding.speculate import canvases
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError, out_of_memory
from rws_cli.likelihood.memory import automatic_rows
from rws_cli.likelihood.score import bound, log_likelihoods
from rws_cli.models.base import Denoiser, PreparedModel
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.runs.choices import choice_sample
from rws_cli.runs.prepared import Components, PreparedRun
from rws_cli.runs.records import RECORDED

PASSES_PER_GROUP = 4
"""About how many forward passes examples with choices take together."""


@dataclass
class Outcome:
    """The results of a batch: lines of samples.jsonl, rows of the trace, and example id → why it failed."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.samples + other.samples, self.traces + other.traces, self.failures | other.failures)

    def remaining(self, batch: list[Example]) -> list[Example]:
        """The examples of a batch that have neither finished nor failed."""
        done = {sample["id"] for sample in self.samples} | self.failures.keys()
        return [example for example in batch if example.id not in done]


class BatchDecoder:
    """Decodes examples. rows: decoded together, halved when memory runs out. notify: called with a line for the user."""

    def __init__(
        self,
        config: Config,
        prepared: PreparedRun,
        components: Components,
        notify: Callable[[str], None] = lambda line: None,
        on_step: OnStep = lambda committed, traces: None,
    ) -> None:
        self.config, self.prepared, self.components = config, prepared, components
        self.notify, self.on_step = notify, on_step
        self.rows = rows_at_once(config, prepared)

    def __call__(self, examples: list[Example]) -> Iterator[Outcome]:
        """Yield outcomes as examples finish. When decoding fails, the examples in progress are decoded one by one, so that only
        those that cause the failure fail. Raises RunError if a single row does not fit into memory."""
        yield from self.attempts(Attempt, [example for example in examples if not example.choices])
        yield from self.attempts(ChoiceAttempt, [example for example in examples if example.choices])

    def attempts(self, kind: type[Attempt] | type[ChoiceAttempt], examples: list[Example]) -> Iterator[Outcome]:
        """Yield the outcomes of examples that are all decoded, or all have choices."""
        waiting = list(examples)
        while waiting:
            done: set[str] = set()
            failure, in_progress = "", list(waiting[:1])
            attempt: Attempt | ChoiceAttempt | None = None
            try:
                attempt = kind(self.config, self.prepared, self.components, waiting, self.rows, self.on_step)
                for outcome in attempt.outcomes():
                    done |= {sample["id"] for sample in outcome.samples}
                    yield outcome
            except RunError as error:
                if attempt is None:
                    raise
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
                self.rows = min(self.rows, attempt.rows) if attempt else self.rows
                attempt = None  # frees its memory
                self.halve()
            waiting = [example for example in waiting if not failure or example not in in_progress]

    def halve(self) -> None:
        """Halve the rows after memory ran out. Raises RunError if there is only one."""
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        if self.rows == 1:
            raise RunError(
                "Out of memory with a single row: use a smaller sampler.gen_length, model.dtype=bfloat16, a smaller model, "
                "or model.device_map=auto over several devices."
            )
        self.notify(f"out of memory with {self.rows} rows in a forward pass: continuing with {self.rows // 2}")
        self.rows //= 2


def rows_at_once(config: Config, prepared: PreparedRun) -> int:
    """Rows per forward pass. A search with more particles per prompt than that takes several passes per step."""
    return 1 if config.runtime.deterministic else config.runtime.batch_size or automatic_batch(config, prepared)


def automatic_batch(config: Config, prepared: PreparedRun) -> int:
    """Initial rows: at most MOST_ROWS, and so few that their logits fit into LOGIT_BYTES."""
    return max(1, min(MOST_ROWS, LOGIT_BYTES // logit_bytes(config, prepared.model)))


def logit_bytes(config: Config, model: PreparedModel) -> int:
    """Bytes of the logits of one row: of all positions that a pass can reach."""
    every = config.sampler.schedule.reads_from is not None
    positions = config.sampler.gen_length if every else model.topology.block_size or config.sampler.gen_length
    several = canvases(config.runtime.speculate) + config.sampler.schedule.lookahead
    return 4 * model.vocabulary * min(positions, config.sampler.gen_length) * several


def new_cache(denoiser: Denoiser, runtime: Runtime, rows: int) -> Cache:
    """Exact if the model attends block by block, else approximate."""
    if denoiser.topology.block_size is not None:
        return PrefixCache(denoiser, rows)
    return BlockCache(denoiser, runtime.cache, runtime.cache_refresh, rows)


class Attempt:
    """One attempt to decode examples, `rows` at a time."""

    def __init__(
        self,
        config: Config,
        prepared: PreparedRun,
        components: Components,
        examples: list[Example],
        rows: int,
        on_step: OnStep,
    ) -> None:
        self.config, self.components, self.examples, self.rows = config, components, examples, rows
        sampler, denoiser, particles = components.sampler, components.denoiser, config.sampler.search.particles
        prompts = [
            prompt_of(
                prepared.model.encode(e.prompt, e.history, **e.context) if e.follows else prepared.prompts[e.id],
                config.seed,
                f"{e.id} particle {n}" if n else e.id,
                prepared.canvases.get(e.id, [denoiser.mask_id] * (sampler.start_length or 0)),
                denoiser.mask_id,
                e.length if e.length and e.length < config.sampler.gen_length else None,
            )
            for e in examples
            for n in range(particles)
        ]
        self.scorer = None
        if components.reward:
            # Without statistics, only normalize=none gets here, which does not use them.
            statistics = components.statistics or Statistics(0.0, 1.0, 0.0, 1.0)
            self.scorer = RowScorer(components.reward, renderer(denoiser, sampler), statistics)
            components.reward.forget()
        side_by_side = max(rows // particles, 1) * particles
        runtime, cache = config.runtime, None
        if runtime.cache != "none":
            cache = new_cache(denoiser, runtime, min(side_by_side, len(prompts)))
        self.decoder = Decoder(
            denoiser, prompts, sampler, self.scorer,
            rows=side_by_side, most_rows=rows, cache=cache, speculate=runtime.speculate,
        )  # fmt: skip
        self.decoder.on_step, self.decoder.on_enter = on_step, self.enter
        self.finishing: list[Example] = []

    @property
    def in_progress(self) -> list[Example]:
        """The examples that may have caused an error."""
        return self.finishing or [self.examples[number] for number in self.decoder.in_progress]

    def enter(self, rows: dict[int, int]) -> None:
        """Assign new examples to rows of the batch. rows: row → number of the prompt."""
        particles = self.config.sampler.search.particles
        examples = {row: self.examples[number // particles] for row, number in rows.items()}
        self.components.sampler.guidance.begin({row: example.id for row, example in examples.items()})
        if self.scorer:
            self.scorer.enter(examples)
            self.scorer.costs = self.decoder.costs

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the examples that finish at the same step. Raises RunError if an example in progress fails."""
        for completions in self.decoder.run():
            self.finishing = [self.examples[completion.number] for completion in completions]
            yield self.outcome(completions)
            self.finishing = []

    def outcome(self, completions: list[Completion]) -> Outcome:
        """Samples and traces of completions, with their final rewards."""
        rewards: list[float | None] = [None] * len(completions)
        if self.scorer:
            rewards = list(self.scorer.measured([(self.examples[c.number], c.tokens) for c in completions]))
        traces, samples = [], []
        for completion, reward in zip(completions, rewards, strict=True):
            example, trace = self.examples[completion.number], completion.trace
            recorded = {f"{RECORDED}{name}": values for name, values in trace.recorded.items()}
            pieces = [self.components.piece(token) for token in trace.token]
            traces.append({"id": example.id, **asdict(trace), **recorded, "text": pieces})
            offset = self.offset(completion.number)
            sample = _sample(self.config, self.components, example, completion, reward, offset)
            if fixed := self.decoder.prompts[completion.number * self.decoder.particles].fixed:
                sample["fixed"] = [[position, self.components.piece(token)] for position, token in fixed.items()]
            samples.append(sample)
        return Outcome(samples, traces)

    def offset(self, number: int) -> int:
        """The place of a completion's first token in its block."""
        topology, decoder = self.components.denoiser.topology, self.decoder
        length = len(decoder.prompts[number * decoder.particles].ids)
        return topology.offset(length) % self.config.sampler.block_length


class ChoiceAttempt:
    """One attempt to score the choices of examples, at most `rows` sequences in a forward pass."""

    def __init__(
        self,
        config: Config,
        prepared: PreparedRun,
        components: Components,
        examples: list[Example],
        rows: int,
        on_step: OnStep,
    ) -> None:
        self.config, self.denoiser, self.pairs = config, components.denoiser, prepared.pairs
        pairs = [pair for example in examples for pair in self.pairs[example.id]]
        self.rows = min(rows, config.runtime.batch_size or automatic_rows(prepared.model.vocabulary, pairs))
        self.in_progress: list[Example] = []
        """The examples that may have caused an error."""
        self.groups: list[list[Example]] = list(self.grouped(examples))

    def grouped(self, examples: list[Example]) -> Iterator[list[Example]]:
        """Groups of examples that fill a few forward passes each."""
        group: list[Example] = []
        passes = 0
        for example in examples:
            group.append(example)
            for pair in self.pairs[example.id]:
                passes += bound(self.denoiser.topology, pair, self.config.likelihood)[0]
            if passes >= PASSES_PER_GROUP * self.rows:
                yield group
                group, passes = [], 0
        if group:
            yield group

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the examples of each group. Raises RunError if one of them fails."""
        for group in self.groups:
            self.in_progress = group
            pairs = [pair for example in self.in_progress for pair in self.pairs[example.id]]
            likelihood, seed = self.config.likelihood, self.config.seed
            scores = iter(log_likelihoods(self.denoiser, pairs, likelihood, seed, self.rows))
            samples = []
            for example in self.in_progress:
                these = self.pairs[example.id]
                samples.append(choice_sample(self.config, example, these, list(islice(scores, len(these)))))
            traces = [{"id": sample["id"], **asdict(RowTrace()), "text": []} for sample in samples]
            yield Outcome(samples, traces)
        self.in_progress = []


def _sample(
    config: Config,
    components: Components,
    example: Example,
    completion: Completion,
    reward: float | None,
    offset: int,
) -> dict[str, Any]:
    """A line of samples.jsonl, not graded yet. offset: the place of the completion's first token in its block.

    order: statistics without end tokens; order_with_eos: with them; both count a remasked position's last commit only, and
    leave edits out.
    length: tokens before the end; particles: the scores of a search. `outcome` adds fixed: position and text of each token
    that stood on the canvas.
    """
    response, trace = completion.tokens, completion.trace
    completion_text = components.denoiser.text(response)
    commits = [n for n, edited_from in enumerate(trace.edited_from) if edited_from is None]
    last = sorted({trace.position[n]: n for n in commits}.values())
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
        "order": order_statistics(position, step, block_length, content, offset),
        "order_with_eos": order_statistics(position, step, block_length, offset=offset),
        "guidance": guidance_statistics(trace),
        "tokens": response,
        "length": len(components.denoiser.until_end(response)),
        "committed": len(commits),
        "remasked": len(commits) - len(last),
        "edited": len(trace.step) - len(commits),
        "near_ties": sum(trace.near_tie[n] for n in commits),
        "particles": completion.scores,
        "cost": asdict(completion.cost),
    }
