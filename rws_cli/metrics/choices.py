"""How sure the likeliest choice is: its log likelihood, and whether more draws could change which one it is."""

import math
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
            "description": "questions whose two likeliest choices differ by less than the error of the draws",
            "unit": "share",
            "formula": "difference < 1.96 standard errors of the difference, taken as independent",
            "better": "down",
        },
    }

    def compute(self, choices: list[list[dict[str, Any]]]) -> dict[str, Any]:
        ranked = [sorted(each, key=lambda c: -c["log_likelihood"] / c["divisor"]) for each in choices]
        return {
            "log_likelihood": [each[0]["log_likelihood"] if each else None for each in ranked],
            "standard_error": [each[0]["standard_error"] if each else None for each in ranked],
            "undecided": [undecided(*each[:2]) if len(each) > 1 else None for each in ranked],
        }


def undecided(first: dict[str, Any], second: dict[str, Any]) -> float:
    """1 if the difference of two choices is within its 95 % interval of 0, else 0. Rivals that share their masks differ by
    less than independent ones, so that this counts too many rather than too few."""
    difference = first["log_likelihood"] / first["divisor"] - second["log_likelihood"] / second["divisor"]
    error = math.hypot(*(choice["standard_error"] / choice["divisor"] for choice in (first, second)))
    return float(error > 0 and difference < INTERVAL * error)
