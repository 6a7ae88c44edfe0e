"""Rewards: text → score. A reward scores candidates in one batched call and says how many tokens it read."""

from __future__ import annotations

from rws_cli.benchmarks.base import Benchmark
from rws_cli.rewards.base import Reward
from rws_cli.schema import ClassifierReward, ConstantReward, NoReward, ShuffledReward, VerifierReward


def load_reward(
    settings: NoReward | ClassifierReward | VerifierReward | ShuffledReward | ConstantReward,
    benchmark: Benchmark,
    seed: int,
) -> Reward | None:
    """The reward that the settings name. Raises UsageError if its checkpoint or statistics are missing."""
    from rws_cli.rewards.classifier import Classifier
    from rws_cli.rewards.controls import Constant, Shuffled, Verifier

    match settings:
        case ClassifierReward():
            return Classifier(settings)
        case VerifierReward():
            return Verifier(benchmark)
        case ShuffledReward():
            return Shuffled(settings.statistics, seed)
        case ConstantReward():
            return Constant(settings.value)
        case _:
            return None
