"""The queue of requests: one thread decodes them in batches, with the code of runs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.loop import OnStep
from rws_cli.errors import RunError, UsageError
from rws_cli.part import Part
from rws_cli.runs.batch_decoder import BatchDecoder
from rws_cli.runs.generate import Generation
from rws_cli.runs.prepared import load_sampler
from rws_cli.serve.requests import GROUPS, MOST, Request, RequestError

GATHER_SECONDS = 0.02
"""How long a batch waits for requests that come together with its first one."""
MOST_WAITING, MOST_COMPLETIONS, CONTEXT = 10_000, 1_000, 2 * MOST
"""Limits: requests that wait, completions per request, and the context of a model that states none."""
BASE = ("benchmark=prompt", "benchmark.text='-'")


@dataclass(eq=False)
class Job:
    """A request in the queue. key: of its settings; future: of the samples, in the order of `examples`; left: whether its
    client has gone."""

    key: tuple[str, ...]
    examples: list[Example]
    prompts: dict[str, list[int]]
    future: Future[list[dict[str, Any]]] = field(default_factory=Future)
    left: bool = False

    @property
    def over(self) -> bool:
        return self.left or self.future.done()


class Queue:
    """Decodes jobs in batches. Jobs of equal settings are decoded together, the oldest first."""

    def __init__(self, overrides: list[str]) -> None:
        """Load model and reward. Raises UsageError as a run does."""
        if any(re.match(r"[+~]*benchmark\b", override) for override in overrides):
            raise UsageError("rws serve takes its prompts from requests: leave out benchmark=….")
        self.overrides = overrides
        self.generation = Generation(compose(*BASE, *overrides))
        self.config, self.prepared = self.generation.config, self.generation.prepared
        if self.config.runtime.backend != "local":
            raise UsageError(
                f"runtime.backend={self.config.runtime.backend} does not work with rws serve, which decodes in its own process: "
                "leave it out."
            )
        self.configured, self.decoder = lru_cache(64)(self._configured), lru_cache(64)(self._decoder)
        self.waiting: list[Job] = []
        self.changed, self.stopping = threading.Condition(), False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def submit(self, request: Request) -> Job:
        """Put a request into the queue. Raises RequestError, and UsageError for settings that do not work."""
        config = self.configured(request.overrides)
        completions, length = config.benchmark.completions, config.sampler.gen_length
        if len(request.prompts) * completions > MOST_COMPLETIONS:
            raise RequestError(400, f"The request asks for more than {MOST_COMPLETIONS:,} completions.", "n")
        limit = self.prepared.model.context_length or CONTEXT
        longest = max(len(ids) for _, ids in request.prompts)
        if longest + length > limit:
            raise RequestError(
                400,
                f"The prompt has {longest} tokens; with sampler.gen_length={length} (max_tokens) that exceeds the context of "
                f"{limit}.",
                "max_tokens",
            )
        repeated = [
            (replace(example, id=f"{example.id}/{n}", question=example.id) if completions > 1 else example, ids)
            for example, ids in request.prompts
            for n in range(completions)
        ]
        job = Job(request.overrides, [example for example, _ in repeated], {e.id: ids for e, ids in repeated})
        with self.changed:
            if self.stopping:
                raise RequestError(503, "The endpoint is stopping.")
            if len(self.waiting) >= MOST_WAITING:
                raise RequestError(429, f"{MOST_WAITING:,} requests are waiting: try again later.")
            self.waiting.append(job)
            self.changed.notify()
        return job

    def stop(self) -> None:
        """Refuse all requests that are not answered yet, and end the thread after its current step."""
        with self.changed:
            self.stopping = True
            self.changed.notify()

    def _configured(self, overrides: tuple[str, ...]) -> Config:
        """The configuration of a request. One that names a sampler starts from that sampler's settings, not from those of the
        command line. Raises UsageError, also if a request sets free text, which could name a file."""
        groups = {key for override in overrides for key, _, _ in [override.partition("=")] if key in GROUPS}
        before = [o for o in self.overrides if not _replaced(o, groups)]
        config = compose(*BASE, *before, *overrides)
        if free := sorted(
            set(_free_texts(config.sampler, "sampler")) - set(_free_texts(self.config.sampler, "sampler"))
        ):
            key, value = free[0]
            raise UsageError(f"{key}={value} can be set only by the command line of rws serve.")
        if config.seed != self.config.seed and config.reward.draws:
            raise UsageError(
                f"reward={config.reward.name} draws by the seed of the command line of rws serve: leave out seed."
            )
        return config

    def _decoder(self, overrides: tuple[str, ...]) -> BatchDecoder:
        config = self.configured(overrides)
        prepared = replace(self.prepared, config=config)
        components = self.generation.components
        sampler, statistics = load_sampler(config, prepared, components.reward)
        return BatchDecoder(config, prepared, replace(components, sampler=sampler, statistics=statistics))

    def _run(self) -> None:
        while not self.stopping:
            jobs = self._next()
            try:
                self._decode(jobs)
            except Exception as error:
                known = isinstance(error, UsageError | RunError | RequestError)
                why = error if known else RunError(f"Decoding failed: {type(error).__name__}: {error}")
                for job in jobs:
                    if not job.over:
                        job.future.set_exception(why)
        for job in self.waiting:
            job.future.set_exception(RequestError(503, "The endpoint is stopping."))

    def _next(self) -> list[Job]:
        """Wait for jobs; returns those of the oldest one's settings, or none."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.stopping)
        time.sleep(GATHER_SECONDS)
        with self.changed:
            waiting = [job for job in self.waiting if not job.over]
            jobs = [] if self.stopping else [job for job in waiting if job.key == waiting[0].key]
            self.waiting = [job for job in waiting if job not in jobs]
        return jobs

    def _decode(self, jobs: list[Job]) -> None:
        """Decode jobs of equal settings; each is answered as soon as its last completion is there. Equal prompts are decoded
        once."""
        examples = {example.id: example for job in jobs for example in job.examples}
        prompts = {i: ids for job in jobs for i, ids in job.prompts.items()}
        if not jobs:
            return
        decoder = self.decoder(jobs[0].key)
        decoder.prepared = replace(decoder.prepared, examples=list(examples.values()), prompts=prompts)
        decoder.on_step = self._watch(jobs)
        samples: dict[str, dict[str, Any]] = {}
        failures: dict[str, str] = {}
        for outcome in decoder(sorted(examples.values(), key=lambda example: -len(prompts[example.id]))):
            samples |= {sample["id"]: sample for sample in outcome.samples}
            failures |= outcome.failures
            for job in jobs:
                if job.over:
                    continue
                if failed := [example.id for example in job.examples if example.id in failures]:
                    job.future.set_exception(RunError(failures[failed[0]]))
                elif all(example.id in samples for example in job.examples):
                    job.future.set_result([samples[example.id] for example in job.examples])

    def _watch(self, jobs: list[Job]) -> OnStep:
        """A function that ends the batch after a step once nobody waits for it."""

        def on_step(committed: int, traces: list[Any]) -> None:
            if self.stopping:
                raise RequestError(503, "The endpoint is stopping.")
            if all(job.over for job in jobs):
                raise RequestError(499, "The client has gone.")

        return on_step


def _replaced(override: str, groups: set[str]) -> bool:
    """Whether an override of the command line is about something that a request chooses anew."""
    key = re.split(r"[=.]", override.lstrip("+~"), maxsplit=1)[0]
    return key in groups or ("sampler" in groups and key in GROUPS)


def _free_texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The settings whose value is free text, which may name a file: dotted keys and values."""
    for each in fields(node) if is_dataclass(node) else ():
        value, name = getattr(node, each.name), f"{key}.{each.name}"
        if isinstance(value, Part):
            name = f"{key}.{value.kind}" if each.name == "order" else name
            yield from _free_texts(value, name)
        elif isinstance(value, str) and each.name not in ("name", "kind") and "choices" not in each.metadata:
            yield name, value
