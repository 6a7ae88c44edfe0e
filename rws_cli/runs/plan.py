"""Estimate what a run would do and cost, without loading weights."""

from __future__ import annotations

from rws_cli.config.schema import Config
from rws_cli.models.checkpoint import stored_weights
from rws_cli.runs.batch_decoder import rows_at_once
from rws_cli.runs.prepared import check_loadable, prepare


def plan(config: Config) -> dict[str, int | float | str | None]:
    """Upper bounds of a run's cost: end tokens can stop a row early, and unchanged text is not scored again.

    Tokens count prompt and response, as in a run's recorded cost; FLOPs are two per weight and token, without attention.
    Raises UsageError as a run would.
    """
    prepared = prepare(config)
    check_loadable(config)
    warnings = prepared.warnings
    sampler, search = config.sampler, config.sampler.search
    sampler.schedule.prepare(sampler)
    rounds, shadow = 1 + sampler.remasking.rounds, sampler.schedule.shadow
    steps = min(sampler.blocks * rounds * sampler.schedule.steps, sampler.schedule.most_passes(sampler) * rounds)
    decodings = search.particles * search.sweeps
    passes = steps * decodings * (2 if sampler.cfg_scale > 0 else 1)
    tokens = passes * sum(
        len(prompt) + (prepared.turn[i] + 1) * sampler.gen_length + shadow * sampler.block_length
        for i, prompt in prepared.prompts.items()
    )
    stored = stored_weights(prepared.model.path, config.model.revision, "model.path")
    weights = stored[0] if stored else None
    calls = sampler.blocks * sampler.remasking.rounds * sampler.remasking.window
    calls += sampler.guidance.calls(steps) + search.calls(steps)
    return {
        "examples": len(prepared.prompts),
        "rows at a time": rows_at_once(config, prepared),
        "steps per example": steps,
        "MDM passes, at most": passes * len(prepared.prompts),
        "tokens through the MDM, at most": tokens,
        "reward calls, at most": calls * decodings * len(prepared.prompts),
        "MDM weights": weights,
        "MDM FLOPs, about": None if weights is None else 2.0 * weights * tokens,
    } | ({"warning": "\n".join(warnings)} if warnings else {})
