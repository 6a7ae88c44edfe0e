"""metrics.json: the means and sums of a run's samples."""

import math
import resource
import sys
from typing import Any

from rws_cli.analysis.guidance import mean_guidance
from rws_cli.analysis.order import DEFAULT_GOD, mean_statistics
from rws_cli.analysis.statistics import bootstrap_interval, grouped, mean, wilson

PASS_AT = (1, 2, 5, 10, 20, 50, 100)


def summarize(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over examples, sums of cost; seconds of cost are decoding alone. What nothing defines is None.

    accuracy_interval: at 95 %, Wilson's; where questions have several answers, the bootstrap's over questions.
    pass_at: for those, the chance that one of k answers is right, by k: the mean over the questions that have so many
    answers, for failures may have left some with fewer.
    """
    return {
        "examples": len(samples),
        **_marks(samples),
        "reward": mean(sample["reward"] for sample in samples),
        "god": DEFAULT_GOD,
        "order": mean_statistics([sample["order"] for sample in samples]),
        "order_with_eos": mean_statistics([sample["order_with_eos"] for sample in samples]),
        "guidance": mean_guidance([sample["guidance"] for sample in samples]),
        "near_ties": near_ties(samples),
        "cost": total_cost(samples),
    }


def near_ties(samples: list[dict[str, Any]]) -> float | None:
    """The share of committed tokens near a tie (Ranker.near_ties); None for samples of a version that did not record
    it."""
    committed = sum(sample["committed"] for sample in samples)
    if not committed or not all("near_ties" in sample for sample in samples):
        return None
    return sum(sample["near_ties"] for sample in samples) / committed


def total_cost(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of the samples' costs, and tokens committed per second of decoding."""
    cost: dict[str, Any] = {key: sum(sample["cost"][key] for sample in samples) for key in samples[0]["cost"]}
    committed = sum(sample["committed"] for sample in samples)
    return cost | {"tokens_per_second": committed / cost["seconds"] if cost["seconds"] else None}


def _marks(samples: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np

    graded = [sample for sample in samples if sample["grade"]]
    grades = grouped([sample["question"] for sample in graded], [sample["grade"] for sample in graded])
    if not grades:
        return dict.fromkeys(("accuracy", "accuracy_interval", "pass_at", "partial"))
    right = {question: sum(grade["correct"] for grade in of_question) for question, of_question in grades.items()}
    n, most = sum(map(len, grades.values())), max(map(len, grades.values()))
    interval: tuple[float, float] | None
    if most == 1:
        interval = wilson(sum(right.values()), n)
    else:
        interval = bootstrap_interval(np.array([right[q] / len(grades[q]) for q in grades]))
    return {
        "accuracy": sum(right.values()) / n,
        "accuracy_interval": interval and list(interval),
        "pass_at": {str(k): _mean_pass_at(k, grades, right) for k in PASS_AT if k <= most} if most > 1 else None,
        "partial": sum(grade["partial"] for of_question in grades.values() for grade in of_question) / n,
    }


def _mean_pass_at(k: int, grades: dict[str, list[dict[str, Any]]], right: dict[str, int]) -> float:
    enough = [question for question, of_question in grades.items() if len(of_question) >= k]
    return sum(pass_at(k, len(grades[question]), right[question]) for question in enough) / len(enough)


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that k of n completions, of which some are correct, contain a correct one: the unbiased estimator 1
    − C(n − c, k) / C(n, k) of Codex (arXiv 2107.03374, equation 1)."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def peak_memory() -> int:
    """Peak memory of this process, in bytes: of the GPU if one was used, else resident memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
