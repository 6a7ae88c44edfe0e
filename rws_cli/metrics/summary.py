"""metrics.json: the means and sums of a run's samples."""

from __future__ import annotations

import resource
from typing import Any

from rws_cli.metrics.order import DEFAULT_GOD, mean_statistics
from rws_cli.metrics.steering import mean_steering


def summarize(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over examples, sums of cost. `accuracy_interval` is Wilson's at 95 %; seconds of cost are decoding alone."""
    from scipy.stats import binomtest

    n = len(samples)
    right = sum(sample["mark"]["correct"] for sample in samples)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    rewards = [sample["reward"] for sample in samples if sample["reward"] is not None]
    cost: dict[str, Any] = {key: sum(sample["cost"][key] for sample in samples) for key in samples[0]["cost"]}
    committed = sum(sample["committed"] for sample in samples)
    cost["tokens_per_second"] = committed / cost["seconds"] if cost["seconds"] else None
    return {
        "examples": n,
        "accuracy": right / n,
        "accuracy_interval": [float(interval.low), float(interval.high)],
        "partial": sum(sample["mark"]["partial"] for sample in samples) / n,
        "reward": sum(rewards) / len(rewards) if rewards else None,
        "god": DEFAULT_GOD,
        "order": mean_statistics([sample["order"] for sample in samples]),
        "order_with_eos": mean_statistics([sample["order_with_eos"] for sample in samples]),
        "steering": mean_steering([sample.get("steering") for sample in samples]),
        "cost": cost,
    }


def peak_memory() -> int:
    """The most memory this process has held, in bytes: the GPU's where one was used, else resident memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
