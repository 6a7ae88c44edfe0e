"""Rewards: text → score. A reward scores candidates in one batched call and says how many tokens it read."""

from __future__ import annotations

from typing import Any

from rws_cli.benchmarks.base import Benchmark
from rws_cli.config.schema import (
    ClassifierReward,
    CompositeReward,
    ConstantReward,
    NoReward,
    ProcessReward,
    ShuffledReward,
    VerifierReward,
)
from rws_cli.errors import RunError, UsageError
from rws_cli.parts import says
from rws_cli.rewards.base import Reward
from rws_cli.rewards.statistics import Statistics


def load_reward(settings: Any, benchmark: Benchmark, seed: int, at: str = "reward") -> Reward | None:
    """The reward that the settings name, built in or in a file of its own, set at the key `at`; None for reward=none.

    Raises UsageError if a checkpoint or statistics are missing.
    """
    from rws_cli.rewards.classifier import Classifier
    from rws_cli.rewards.composite import Composite
    from rws_cli.rewards.controls import Constant, Shuffled, Verifier
    from rws_cli.rewards.process import Process

    match settings:
        case ClassifierReward():
            return Classifier(settings, at)
        case VerifierReward():
            return Verifier(benchmark)
        case ShuffledReward():
            return Shuffled(settings.statistics, seed)
        case ConstantReward():
            return Constant(settings.value)
        case CompositeReward():
            loaded = {
                name: load_reward(part, benchmark, seed, f"{at}.parts.{name}") for name, part in settings.parts.items()
            }
            return Composite(settings, {name: part for name, part in loaded.items() if part})
        case ProcessReward():
            part = load_reward(settings.part, benchmark, seed, f"{at}.part")
            assert part is not None
            return Process(settings, part)
        case NoReward():
            return None
        case _:
            return _own(settings, benchmark, seed, at)


def _own(settings: Any, benchmark: Benchmark, seed: int, at: str) -> Reward:
    """A reward in a file of its own. Raises UsageError if the file does not make one."""
    where = f"{at}.kind={settings.kind} (rws_cli/rewards/{settings.kind}.py)"
    try:
        reward = says("reward", settings.kind, "make", None)(settings, benchmark, seed)
    except (UsageError, RunError):
        raise
    except Exception as error:  # whatever a file that is being written can do
        raise UsageError(f"{where} cannot be made: {type(error).__name__}: {error}.") from error
    if missing := [name for name in ("statistics", "score", "forget") if not hasattr(reward, name)]:
        raise UsageError(
            f"{where} makes a {type(reward).__name__} without {', '.join(missing)}: derive it from Reward."
        )
    if not isinstance(reward.statistics, Statistics | None):
        raise UsageError(f"{where}: statistics={reward.statistics} must be Statistics(mean, std, min, max) or None.")
    return reward
