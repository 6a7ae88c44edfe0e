"""Which verdicts of judges are about two runs, and which judges are the same.

Two judges are the same if all that decides a verdict is the same, settings and weights, whatever they are called.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rws_cli.analysis.run import Run, Sample
from rws_cli.config.identity import differing_keys, flat, recorded_hash

OPERATIONAL = (
    "batch_size", "device", "retries", "timeout_seconds", "parallel", "requests_per_minute", "cache", "max_dollars",
    "dollars_per_million_in", "dollars_per_million_out",
)  # fmt: skip
"""Settings that do not change verdicts."""

Verdicts = dict[str, tuple[float | None, float | None]]
"""Example → preference for the judged run's completion (1, 0.5, 0; None: unreadable) when shown second and when
shown first."""


def verdicts_against(run: Run, base: Run) -> dict[str, Verdicts]:
    """By judge (see `identity_of`), the examples of a run that were judged against another in both orders."""
    sides: dict[str, dict[str, dict[int, float | None]]] = {}
    for about in run.judged:
        if about["against"]["config_hash"] != recorded_hash(base.manifest):
            continue
        judged = sides.setdefault(identity_of(about["judge"], about.get("weights") or {}), {})
        for line in about["verdicts"]:
            i, order, first = line["id"], line["order"], line["first"]
            both = i in run.samples and i in base.samples
            if both and line["completions"] == completions_hash(base.samples[i], run.samples[i]):
                judged.setdefault(i, {})[order] = first if order or first is None else 1 - first
    return {judge: {i: (by[0], by[1]) for i, by in judged.items() if len(by) == 2} for judge, judged in sides.items()}


def identity_of(judge: dict[str, Any], weights: dict[str, Any]) -> str:
    """What determines a judge's verdicts, as JSON: its settings and weights."""
    return json.dumps(deciding(judge) | ({"weights": weights} if weights else {}), sort_keys=True)


def deciding(node: Any) -> Any:
    """Settings without those that do not change verdicts."""
    if not isinstance(node, dict):
        return node
    return {key: deciding(value) for key, value in node.items() if key not in OPERATIONAL}


def completions_hash(base: Sample, sample: Sample) -> str:
    """A hash of the two completions that a verdict is about, and the turns before them."""
    texts = [[s["history"], s["prompt"], s["completion"]] for s in (base, sample)]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:16]


def judge_labels(identities: Sequence[str]) -> dict[str, str]:
    """A label for each judge: its name, and the settings in which it differs from judges of the same name. Long
    values, such as a template or weights, are shown as a hash."""
    judges = {}
    for identity in identities:
        judge = json.loads(identity)
        weights = {"weights": json.dumps(judge["weights"], sort_keys=True)} if "weights" in judge else {}
        judges[identity] = flat(judge | weights)
    labels = {}
    for identity, judge in judges.items():
        namesakes = [other for other in judges.values() if other["name"] == judge["name"]]
        keys = sorted({key for other in namesakes for key in differing_keys(judge, other)})
        details = ", ".join(f"{key}={_short(judge.get(key))}" for key in keys)
        labels[identity] = f"{judge['name']} ({details})" if details else judge["name"]
    return labels


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"#{hashlib.sha256(text.encode()).hexdigest()[:6]}"
