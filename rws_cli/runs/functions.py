"""Decoding with a function in place of a checkpoint: what `rws.decode` does, without a run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from rws_cli import registry
from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose_one
from rws_cli.config.schema import Config
from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Completion, Decoder
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import UsageError
from rws_cli.guidance.base import Guidance
from rws_cli.models.base import Denoiser
from rws_cli.orders.base import Order
from rws_cli.rewards.function import RewardFunction
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.runs.batch_decoder import MOST_ROWS
from rws_cli.runs.records import RECORDED

SETTINGS = re.compile(r"[+~]*(sampler|guidance|search)\b|runtime\.batch_size=")
"""Overrides that are read."""


def decoding_config(overrides: Sequence[str], eos_ids: Sequence[int], reward: RewardFunction | None) -> Config:
    """The configuration of a decoding without a checkpoint, its seed apart. Raises UsageError, also if the sampler needs
    more than functions."""
    for override in overrides:
        if not SETTINGS.match(override):
            raise UsageError(f"{override} is not read by rws.decode, which takes sampler.…, guidance=… and search=….")
    config = deepcopy(_composed(tuple(overrides), tuple(registry.folders())))
    s = config.sampler
    if s.schedule.shadow:
        raise UsageError(
            f"sampler.schedule.kind={s.schedule.kind} hides each token from itself, which a function of token ids cannot: "
            "use rws.run."
        )
    for name, part in s.parts.items():
        key, loads = f"sampler.{name}.kind={part.kind}", getattr(type(part), "load", None)
        if loads not in (None, Order.load, Guidance.load) or {"gradients", "weights", "hidden_states"} & {*part.needs}:
            raise UsageError(
                f"{key} reads files or weights of a checkpoint, which rws.decode has none of: use rws.run."
            )
        if "reward" in part.needs and reward is None:
            raise UsageError(f"{key} needs a reward: give reward=rws.RewardFunction(…).")
        if "statistics" in part.needs and reward and reward.statistics is None:
            off = f', or "sampler.{name}.normalize=none"' if hasattr(part, "normalize") else ""
            raise UsageError(
                f"{key} needs the statistics of the reward's scores: give "
                f"reward=rws.RewardFunction(function, rws.Statistics(mean, std, min, max)){off}."
            )
    if s.eos != "none" and not eos_ids:
        raise UsageError(f"sampler.eos={s.eos} needs the end tokens: give eos_ids=[…].")
    return config


@lru_cache
def _composed(overrides: tuple[str, ...], folders: tuple[str, ...]) -> Config:
    """Composing takes longer than decoding a few tokens, and whoever decodes in a loop asks for the same again. folders:
    where parts of the user's are found."""
    return compose_one("benchmark=prompt", "benchmark.text='-'", *overrides)[0]


def decode_prompts(
    config: Config, denoiser: Denoiser, prompts: list[list[int]], reward: RewardFunction | None
) -> list[Completion]:
    """Completions in the order of the prompts. Those of equal length are decoded together: nothing is padded."""
    by_length: dict[int, dict[int, list[int]]] = {}
    for number, ids in enumerate(prompts):
        by_length.setdefault(len(ids), {})[number] = ids
    completions: dict[int, Completion] = {}
    for group in by_length.values():
        completions |= _decode_group(config, denoiser, group, reward)
    return [completions[number] for number in range(len(prompts))]


def _decode_group(
    config: Config, denoiser: Denoiser, prompts: dict[int, list[int]], reward: RewardFunction | None
) -> dict[int, Completion]:
    """Decode prompts of equal length; prompts and completions by number."""
    sampler, numbers = config.sampler, list(prompts)
    particles, rows = sampler.search.particles, config.runtime.batch_size or MOST_ROWS
    started = [
        prompt_of(ids, config.seed, f"{number} particle {n}" if n else str(number))
        for number, ids in prompts.items()
        for n in range(particles)
    ]
    scorer = None
    if reward:
        read: Any = reward
        scorer = RowScorer(read, renderer(denoiser, sampler), reward.statistics or Statistics(0.0, 1.0, 0.0, 1.0))
    decoder = Decoder(denoiser, started, sampler, scorer, rows=max(rows // particles, 1) * particles, most_rows=rows)
    texts = {number: denoiser.tokenizer.decode(ids, skip_special_tokens=True) for number, ids in prompts.items()}

    def enter(entering: dict[int, int]) -> None:
        taken = {row: numbers[number // particles] for row, number in entering.items()}
        sampler.guidance.begin({row: str(number) for row, number in taken.items()})
        if scorer:
            scorer.enter({row: Example(str(number), texts[number], "") for row, number in taken.items()})
            scorer.costs = decoder.costs

    decoder.on_enter = enter
    return {numbers[completion.number]: completion for some in decoder.run() for completion in some}


def trace_row(number: int, completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """A completion's row of a trace; without texts if there is no tokenizer."""
    trace = completion.trace
    recorded = {f"{RECORDED}{name}": values for name, values in trace.recorded.items()}
    text = [tokenizer.decode([token]) for token in trace.token] if tokenizer else None
    return {"id": str(number), **asdict(trace), **recorded, "text": text}
