"""Decode with a function instead of a checkpoint, without a run folder: the work of `rws.decode`."""

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
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prediction import MOST_ROWS
from rws_cli.decoding.record import Completion
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import UsageError
from rws_cli.guidance.base import Guidance
from rws_cli.models.base import Denoiser
from rws_cli.orders.base import Order
from rws_cli.rewards.function import RewardFunction
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.runs.records import RECORDED

SETTINGS = re.compile(r"[+~]*(sampler|guidance|search)\b|runtime\.batch_size=")
"""Overrides that rws.decode accepts."""


def decoding_config(overrides: Sequence[str], eos_ids: Sequence[int], reward: RewardFunction | None) -> Config:
    """The configuration of a decoding without a checkpoint, except for its seed. Raises UsageError, also if the sampler
    needs more than functions."""
    for override in overrides:
        if not SETTINGS.match(override):
            raise UsageError(f"{override} does not apply to rws.decode: give sampler.…, guidance=… or search=….")
    config = deepcopy(_composed(tuple(overrides), tuple(registry.folders())))
    s = config.sampler
    if s.schedule.attention_layers:
        raise UsageError(
            f"sampler.schedule.kind={s.schedule.kind} reads attention weights, which a function of token ids does not have: "
            "use rws.run."
        )
    if s.schedule.shadow:
        raise UsageError(
            f"sampler.schedule.kind={s.schedule.kind} hides each token from itself, which a function of token ids cannot do: "
            "use rws.run."
        )
    for name, part in s.parts.items():
        named, load = f"sampler.{name}.kind={part.kind}", getattr(type(part), "load", None)
        if load not in (None, Order.load, Guidance.load) or {"gradients", "weights", "hidden_states"} & {*part.needs}:
            raise UsageError(
                f"{named} needs files or weights of a checkpoint, which rws.decode does not have: use rws.run."
            )
        if "answers" in part.needs:
            raise UsageError(f"{named} needs a benchmark that extracts answers: use rws.run.")
        if "reward" in part.needs and reward is None:
            raise UsageError(f"{named} needs a reward: give reward=rws.RewardFunction(…).")
        if "statistics" in part.needs and reward and reward.statistics is None:
            alternative = f', or "sampler.{name}.normalize=none"' if hasattr(part, "normalize") else ""
            raise UsageError(
                f"{named} needs statistics of the reward's scores: give "
                f"reward=rws.RewardFunction(function, rws.Statistics(mean, std, min, max)){alternative}."
            )
    if s.eos != "none" and not eos_ids:
        raise UsageError(f"sampler.eos={s.eos} needs to know the end tokens: give eos_ids=[…].")
    return config


@lru_cache
def _composed(overrides: tuple[str, ...], folders: tuple[str, ...]) -> Config:
    """Compose, with a cache: composing takes longer than decoding a few tokens, and is repeated when decoding in a loop.
    folders: those of the user's parts."""
    return compose_one("benchmark=prompt", "benchmark.text='-'", *overrides)[0]


def decode_prompts(
    config: Config, denoiser: Denoiser, prompts: list[list[int]], reward: RewardFunction | None
) -> list[Completion]:
    """Completions in the order of the prompts. Prompts of equal length are decoded together, so that nothing is padded."""
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
    """Decode prompts of equal length. Prompts and completions are keyed by number."""
    sampler, numbers = config.sampler, list(prompts)
    start = [denoiser.mask_id] * (sampler.start_length or 0)
    particles, rows = sampler.search.particles, config.runtime.batch_size or MOST_ROWS
    prompt_rows = [
        prompt_of(ids, config.seed, f"{number} particle {n}" if n else str(number), start, denoiser.mask_id)
        for number, ids in prompts.items()
        for n in range(particles)
    ]
    scorer = None
    if reward:
        untyped: Any = reward  # it has the methods of a Reward that scoring uses
        scorer = RowScorer(untyped, renderer(denoiser, sampler), reward.statistics or Statistics(0.0, 1.0, 0.0, 1.0))
    decoder = Decoder(
        denoiser, prompt_rows, sampler, scorer, rows=max(rows // particles, 1) * particles, most_rows=rows
    )
    texts = {number: denoiser.tokenizer.decode(ids, skip_special_tokens=True) for number, ids in prompts.items()}

    def enter(entering: dict[int, int]) -> None:
        number_of = {row: numbers[number // particles] for row, number in entering.items()}
        sampler.guidance.begin({row: str(number) for row, number in number_of.items()})
        if scorer:
            scorer.enter({row: Example(str(number), texts[number], "") for row, number in number_of.items()})
            scorer.costs = decoder.costs

    decoder.on_enter = enter
    return {numbers[completion.number]: completion for some in decoder.run() for completion in some}


def trace_row(number: int, completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """A completion's row of the trace; without texts if there is no tokenizer."""
    trace = completion.trace
    recorded = {f"{RECORDED}{name}": values for name, values in trace.recorded.items()}
    text = [tokenizer.decode([token]) for token in trace.token] if tokenizer else None
    return {"id": str(number), **asdict(trace), **recorded, "text": text}
