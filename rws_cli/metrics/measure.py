"""Apply the metrics of a configuration to a run's completions."""

import math
from collections.abc import Sequence
from typing import Any

from rws_cli.analysis.statistics import mean
from rws_cli.benchmarks.base import Example
from rws_cli.errors import RunError, UsageError
from rws_cli.metrics.base import Metric

Measures = dict[str, float | None]


def load_metrics(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """The metrics by name, ready to compute. Raises UsageError if one cannot be loaded."""
    return {name: metric.load(f"metric.{name}") for name, metric in metrics.items()}


def measure(
    metrics: dict[str, Metric], examples: Sequence[Example], samples: Sequence[dict[str, Any]], config: Any = None
) -> tuple[list[Measures], Measures]:
    """The measures of each sample and of the run: "metric.key" → value. A run's measures are means over samples if the
    metric has a value per sample, else its single value. config: the run's configuration.

    Raises UsageError if a metric needs an input that the benchmark lacks, RunError if a metric fails.
    """
    inputs: dict[str, list[Any]] = {
        "predictions": [sample["completion"] for sample in samples],
        **{f"{key}s": [sample[key] for sample in samples] for key in ("reference", "prompt", "question")},
        "keywords": [list(example.keywords) for example in examples],
        "histories": [sample.get("history", []) for sample in samples],
        "tokens": [sample.get("tokens", []) for sample in samples],
        "choices": [sample.get("choices", []) for sample in samples],
    }
    absent = {key for key in ("references", "keywords", "choices") if not any(inputs[key])}
    if any(sample.get("grade") for sample in samples):
        absent.discard("references")  # graded against references that are all empty
    available = {key: texts for key, texts in inputs.items() if key not in absent}
    each: list[Measures] = [{} for _ in samples]
    whole: Measures = {}
    for name, metric in load_metrics(metrics).items():
        metric.use(config)
        for key, value in _computed(name, metric, available).items():
            full = f"{name}.{key}"
            if isinstance(value, list) and len(value) == len(samples):
                values = [number(v) for v in value]
                for measures, one in zip(each, values, strict=True):
                    measures[full] = one
                whole[full] = mean(values)
            elif number(value) is not None or value is None:
                whole[full] = number(value)
    return each, whole


def _computed(name: str, metric: Metric, texts: dict[str, list[Any]]) -> dict[str, Any]:
    if missing := [key for key in metric.inputs if key not in texts]:
        raise UsageError(
            f"metric={name} needs {missing[0]}, which this benchmark's examples lack (they have {', '.join(texts)}): choose another metric."
        )
    try:
        return metric.compute(**{key: texts[key] for key in metric.inputs})
    except UsageError:
        raise
    except Exception as error:
        raise RunError(f"metric={name} failed: {type(error).__name__}: {error}") from error


def number(value: Any) -> float | None:
    """A finite number as a float, anything else as None."""
    try:
        converted = float(value)
    except (TypeError, ValueError):
        return None
    return converted if math.isfinite(converted) else None
