"""What a run would do and cost, found without loading weights."""

from __future__ import annotations

from typing import Any

from rws_cli.answering import rows_at_once
from rws_cli.config.schema import BestOfN, Config, EntrgiGuidance, FixedSchedule, FkSteering, R3Review, RewardGuidance
from rws_cli.decoding.schedules import schedule_of
from rws_cli.models.checkpoint import stored_weights
from rws_cli.task import check_loadable, prepare


def plan(config: Config) -> dict[str, int | float | str | None]:
    """Upper bounds: end tokens can stop a row early, and unchanged text is not scored again.

    Tokens count prompt and response, as a run's own cost does; FLOPs are two a weight and token, attention left out.
    Raises UsageError as a run would.
    """
    task = prepare(config)
    check_loadable(config)
    warning = task.benchmark.doubtful_references(task.examples)
    sampler = config.sampler
    reviews = 1 + (sampler.review.rounds if isinstance(sampler.review, R3Review) else 0)
    steps = sampler.blocks * reviews * schedule_of(sampler).steps
    if isinstance(sampler.schedule, FixedSchedule):
        steps = min(steps, sampler.gen_length * reviews)  # the rest would commit nothing
    search: Any = sampler.search
    decodings = sampler.particles * getattr(search, "sweeps", 1)
    passes = steps * decodings * (2 if sampler.cfg_scale > 0 else 1)
    shadows = sampler.block_length if sampler.schedule.kind == "wino" else 0
    tokens = passes * sum(
        len(prompt) + (task.turn[i] + 1) * sampler.gen_length + shadows for i, prompt in task.prompts.items()
    )
    found = stored_weights(task.prepared.path, config.model.revision, "model.path")
    weights = found[0] if found else None
    guidance: Any = sampler.guidance
    calls = sampler.blocks * (reviews - 1) * getattr(sampler.review, "window", 0)
    if isinstance(guidance, RewardGuidance):
        calls += -(-steps // guidance.reward_every)
    if isinstance(guidance, EntrgiGuidance):
        calls += steps * guidance.steps
    if isinstance(search, FkSteering):
        calls += (steps - 1) // search.every * search.completions
    if isinstance(search, BestOfN | FkSteering):
        calls += 1
    return {
        "examples": len(task.prompts),
        "rows at a time": rows_at_once(config, task),
        "steps per example": steps,
        "MDM passes, at most": passes * len(task.prompts),
        "tokens through the MDM, at most": tokens,
        "reward calls, at most": calls * decodings * len(task.prompts),
        "MDM weights": weights,
        "MDM FLOPs, about": None if weights is None else 2.0 * weights * tokens,
    } | ({"warning": warning} if warning else {})
