"""Metrics of a run's answers: `evaluate` modules, ours by name, a user's by path or by its name on the hub."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

from rws_cli.benchmarks.base import Example
from rws_cli.config.catalog import MODULES
from rws_cli.config.schema import Metric
from rws_cli.errors import RunError, UsageError

Measures = dict[str, float | None]


def load_metrics(metrics: dict[str, Metric]) -> dict[str, Any]:
    """The modules, by name. Raises UsageError for one that cannot be loaded, or whose own `check` of its arguments does."""
    if not metrics:
        return {}
    import evaluate

    loaded = {}
    for name, metric in metrics.items():
        ours = MODULES / metric.module
        try:
            loaded[name] = evaluate.load(
                str(ours) if ours.is_dir() else metric.module,
                revision=metric.revision,
                keep_in_memory=True,
                experiment_id=uuid.uuid4().hex,
            )
        except Exception as error:  # evaluate has no common base for what a module, a name or the network can do
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"metric.{name}.module={metric.module} cannot be loaded: {reason}") from error
        if hasattr(loaded[name], "check"):
            loaded[name].check(**metric.arguments)
    return loaded


def measure(
    metrics: dict[str, Metric], examples: Sequence[Example], samples: Sequence[dict[str, Any]]
) -> tuple[list[Measures], Measures]:
    """What the metrics say of each sample, and of all: "metric.key" → value; of all, means over samples where a metric
    has a value for each, else its one value.

    A module gets those of predictions, references, prompts, questions and keywords that its features name. Raises
    UsageError if a metric asks for what the benchmark has not, RunError if it fails.
    """
    modules = load_metrics(metrics)
    inputs: dict[str, list[Any]] = {
        "predictions": [sample["answer"] for sample in samples],
        "references": [sample["reference"] for sample in samples],
        "prompts": [sample["prompt"] for sample in samples],
        "questions": [sample["question"] for sample in samples],
        "keywords": [list(example.keywords) for example in examples],
    }
    absent = {key for key in ("references", "keywords") if not any(inputs[key])}
    if any(sample.get("mark") for sample in samples):
        absent.discard("references")  # marked against texts that happen to be empty
    each: list[Measures] = [{} for _ in samples]
    whole: Measures = {}
    for name, module in modules.items():
        wanted = module.features[0] if isinstance(module.features, list) else module.features
        for key in wanted:
            if key not in inputs or key in absent:
                raise UsageError(
                    f"metric={name} needs {key}, which this benchmark's examples do not have; there are "
                    f"{', '.join(k for k in inputs if k not in absent)}."
                )
        try:
            found = module.compute(**{key: inputs[key] for key in wanted}, **metrics[name].arguments)
        except UsageError:
            raise
        except Exception as error:
            raise RunError(f"metric={name} failed: {type(error).__name__}: {error}") from error
        for key, value in (found or {}).items():
            full = f"{name}.{key}"
            if isinstance(value, list) and len(value) == len(samples):
                values = [number(v) for v in value]
                for measures, one in zip(each, values, strict=True):
                    measures[full] = one
                defined = [v for v in values if v is not None]
                whole[full] = sum(defined) / len(defined) if defined else None
            elif number(value) is not None or value is None:
                whole[full] = number(value)
    return each, whole


def number(value: Any) -> float | None:
    """A finite number as a float, anything else as None."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None
