"""What a run would do and cost, found without loading weights."""

from __future__ import annotations

from typing import Any

from rws_cli.experiment import automatic_batch, prepare
from rws_cli.models.checkpoint import weight_count
from rws_cli.schema import Config, RewardGuidance


def plan(config: Config) -> dict[str, int | float | None]:
    """Upper bounds: end tokens can stop a row early, and unchanged text is not scored again.

    Tokens count prompt and response, as a run's own cost does; FLOPs are two a weight and token, attention left out.
    Raises UsageError as a run would.
    """
    task = prepare(config)
    sampler = config.sampler
    steps = sampler.blocks * min(sampler.steps_per_block, sampler.block_length)
    passes = steps * (2 if sampler.cfg_scale > 0 else 1)
    tokens = passes * sum(len(prompt) + (task.turn[i] + 1) * sampler.gen_length for i, prompt in task.prompts.items())
    weights = weight_count(task.prepared.path, config.model.revision)
    guidance: Any = sampler.guidance
    calls = -(-steps // guidance.every) if isinstance(guidance, RewardGuidance) else 0
    return {
        "examples": len(task.prompts),
        "rows at a time": config.runtime.batch_size or automatic_batch(config, task),
        "steps per example": steps,
        "MDM passes, at most": passes * len(task.prompts),
        "tokens through the MDM, at most": tokens,
        "reward calls, at most": calls * len(task.prompts),
        "MDM weights": weights,
        "MDM FLOPs, about": None if weights is None else 2.0 * weights * tokens,
    }
