"""What a run would do and cost, found without loading weights."""

from __future__ import annotations

from rws_cli.config.schema import Config
from rws_cli.models.checkpoint import stored_weights
from rws_cli.runs.answering import rows_at_once
from rws_cli.runs.task import check_loadable, prepare


def plan(config: Config) -> dict[str, int | float | str | None]:
    """Upper bounds: end tokens can stop a row early, and unchanged text is not scored again.

    Tokens count prompt and response, as a run's own cost does; FLOPs are two a weight and token, attention left out.
    Raises UsageError as a run would.
    """
    task = prepare(config)
    check_loadable(config)
    warning = task.benchmark.doubtful_references(task.examples)
    sampler, search = config.sampler, config.sampler.search
    sampler.schedule.prepare(sampler)
    reviews, shadow = 1 + sampler.review.rounds, sampler.schedule.shadow
    steps = min(sampler.blocks * reviews * sampler.schedule.steps, sampler.schedule.most_passes(sampler) * reviews)
    decodings = search.particles * search.sweeps
    passes = steps * decodings * (2 if sampler.cfg_scale > 0 else 1)
    tokens = passes * sum(
        len(prompt) + (task.turn[i] + 1) * sampler.gen_length + shadow * sampler.block_length
        for i, prompt in task.prompts.items()
    )
    found = stored_weights(task.prepared.path, config.model.revision, "model.path")
    weights = found[0] if found else None
    calls = sampler.blocks * sampler.review.rounds * sampler.review.window
    calls += sampler.guidance.calls(steps) + search.calls(steps)
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
