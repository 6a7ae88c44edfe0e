"""Judges: which of two answers is better? One file each; contests.py asks them about whole runs."""

from __future__ import annotations

from typing import Any

from rws_cli.benchmarks.base import Benchmark
from rws_cli.config.schema import CausalJudge, EndpointJudge, RewardJudge
from rws_cli.judges.base import Judge


def load_judge(settings: Any, benchmark: Benchmark) -> Judge:
    """The judge that the settings name. Raises UsageError if it cannot be had."""
    from rws_cli.judges.endpoint import EndpointJudge as Endpoint
    from rws_cli.judges.local import LocalJudge
    from rws_cli.judges.scored import ScoredJudge
    from rws_cli.models.causal import load_causal
    from rws_cli.rewards import load_reward

    match settings:
        case RewardJudge():
            reward = load_reward(settings.reward, benchmark, 0, "judge.reward")
            assert reward is not None
            return ScoredJudge(reward, settings.margin)
        case CausalJudge():
            s = settings
            causal = load_causal("judge", s.path, s.file, s.revision, s.dtype, s.device)
            return LocalJudge(causal, s.template, s.margin, s.batch_size)
        case EndpointJudge():
            return Endpoint(settings)
        case _:
            raise ValueError(f"{settings} judges nothing.")
