"""How sure the likeliest choice is: its log likelihood, and whether more draws could change which one it is."""

from typing import Any

from rws_cli.likelihood.score import INTERVAL
from rws_cli.metrics.base import Metric
from rws_cli.part import part


@part
class Choices(Metric):
    inputs = ("choices",)
    measures = {
        "log_likelihood": {
            "description": "log likelihood of the likeliest choice",
            "unit": "nats",
            "formula": "the bound, or the exact value of a causal model; not divided by a length",
        },
        "standard_error": {
            "description": "standard error of that log likelihood, from the draws of masks",
            "unit": "nats",
            "formula": "0 where all masks are taken",
            "better": "down",
        },
        "undecided": {
            "description": "questions whose likeliest choice is uncertain, given the error of the draws",
            "unit": "share",
            "formula": "difference < 1.96 standard errors of the difference; choices of one length share their masks",
            "better": "down",
        },
    }

    def compute(self, choices: list[list[dict[str, Any]]]) -> dict[str, Any]:
        ranked = [sorted(each, key=lambda c: -c["log_likelihood"] / c["divisor"]) for each in choices]
        return {
            "log_likelihood": [each[0]["log_likelihood"] if each else None for each in ranked],
            "standard_error": [each[0]["standard_error"] if each else None for each in ranked],
            "undecided": [undecided(each) if len(each) > 1 else None for each in ranked],
        }


def undecided(ranked: list[dict[str, Any]]) -> float:
    """1 if a choice differs from the likeliest one, the first, by less than the 95 % interval of the difference, else 0."""
    best, *rivals = ranked
    return float(
        any(
            best["log_likelihood"] / best["divisor"] - rival["log_likelihood"] / rival["divisor"]
            < INTERVAL * rival["difference_error"]
            for rival in rivals
        )
    )
