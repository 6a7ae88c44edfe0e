"""The registry of measures: every number that a table, figure or file gives for an example, a run or a comparison.

A measure has the same name in tables, files and frames. Its entry gives description, unit, formula and the place in the
records; everything that shows a measure reads it from here. Metrics (rws_cli/metrics) declare their own measures, which
are read from their source without importing it.

In flat tables `<name>_low` and `<name>_high` are the ends of the 95 % interval, `<name>_difference` is the mean paired
difference to the first line, and `<name>_published` is a paper's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rws_cli import registry
from rws_cli.analysis.measure import COST, METRICS, STATISTICS, Measure
from rws_cli.errors import UsageError, choose_from, nearest

RWS, DIFFUCODER, CODEX = "arXiv 2509.00707", "arXiv 2506.20639", "arXiv 2107.03374"
WITH_EOS = "_with_eos"
"""Ends the names of order statistics that count end tokens."""

# --- quality ------------------------------------------------------------------------------------------------------

QUALITY = [
    Measure(
        "examples", "examples", "finished examples", "number of lines of samples.jsonl", metrics="examples",
    ),
    Measure("failed", "examples", "examples that failed; they are left out of means", "number of failures", metrics="failed"),
    Measure(
        "accuracy", "share", "completions graded correct", "correct completions / graded completions", "up", True,
        sample="grade.correct", metrics="accuracy",
    ),
    Measure(
        "partial", "share", "partial credit", "mean of the credit in [0, 1] that the benchmark gives", "up", True,
        sample="grade.partial", metrics="partial", label="partial credit",
    ),
    *(
        Measure(
            f"pass@{k}", "share", "chance that at least one of k completions of a question is correct",
            "mean over questions of 1 − C(n − c, k) / C(n, k), c of n completions correct", "up",
            metrics=f"pass_at.{k}", source=f"{CODEX}, equation 1",
        )
        for k in (1, 2, 5, 10, 20, 50, 100)
    ),
    Measure(
        "reward", "score", "reward of the finished completion",
        "mean raw score of finished completions; at a step: score of the completion with its masks completed", "up",
        True, sample="reward", metrics="reward", trace="reward",
    ),
]  # fmt: skip

# --- order --------------------------------------------------------------------------------------------------------


def _order(name: str, unit: str, description: str, formula: str, **more: Any) -> Measure:
    """An order statistic of each token's last commit, without end tokens; see analysis/order.py."""
    key = "god_tokens" if name == "god" else name
    return Measure(name, unit, description, formula, sample=f"order.{key}", metrics=f"order.{key}", **more)


def _with_eos(measure: Measure) -> Measure:
    """The same statistic with end tokens counted."""
    paths = {name: getattr(measure, name).replace("order.", "order_with_eos.") for name in ("sample", "metrics")}
    description = f"{measure.description}, end tokens counted"
    return replace(measure, name=measure.name + WITH_EOS, description=description, label="", paired=False, **paths)


ORDER = [
    _order(
        "god", "tokens", "mean distance from left-to-right order, in tokens",
        "mean |rank of commit − rank of position|; 0: left to right, (n² − 1)/(3n) expected of a random order",
        paired=True, label="GOD", source=f"{RWS}; its formula is not published, this one is ours: {METRICS}",
    ),
    _order(
        "god_steps", "steps", "mean distance from left-to-right order, in steps",
        "mean |step − step that would commit the token left to right, with as many commits per step|",
    ),
    _order(
        "god_tokens_in_block", "tokens", "GOD within each block", "GOD within each block, averaged over tokens"
    ),
    _order(
        "god_steps_in_block", "steps", "GOD in steps within each block",
        "god_steps within each block, averaged over tokens",
    ),
    _order(
        "kendall_tau", "−1 to 1", "rank correlation of position and step; 1: left to right",
        "Kendall's tau-b of position and step", label="Kendall tau",
    ),
    _order(
        "spearman", "−1 to 1", "correlation of the ranks of position and step; 1: left to right",
        "Pearson correlation of the midranks of position and step", label="Spearman's rho",
    ),
    *(
        _order(
            f"local_ar_ness@{k}", "share", "runs of k + 1 successive commits that are neighbors, left to right",
            "share of runs of k + 1 successive commits at p, p + 1, …, p + k", source=DIFFUCODER,
        )
        for k in (1, 2, 4)
    ),
    *(
        _order(
            f"global_ar_ness@{k}", "share", "commits at one of the k leftmost open positions",
            "share of commits at one of the k leftmost positions still open", source=DIFFUCODER,
        )
        for k in (1, 2, 4)
    ),
    _order(
        "backward_share", "share", "steps that move to the left",
        "share of steps after the first whose mean position is left of the step before",
    ),
    _order(
        "mean_jump", "positions", "mean distance between successive commits",
        "mean |position − position of the commit before|, the tokens of a step sorted by position",
    ),
]  # fmt: skip

# --- guidance and decoding ----------------------------------------------------------------------------------------

GUIDANCE = [
    Measure(
        "scale", "factor", "factor by which guidance multiplies the logits", "mean of r over steps, then examples",
        sample="guidance.scale", metrics="guidance.scale", trace="scale",
    ),
    Measure(
        "temperature", "factor", "temperature equivalent to the scale", "mean of 1/r over steps, then examples",
        sample="guidance.temperature", metrics="guidance.temperature",
    ),
    Measure(
        "reversals", "share", "pairs of open positions whose order the scale reversed",
        "reversed pairs / pairs of open positions, over all steps; of a run: over all examples",
        sample="guidance.reversals", metrics="guidance.reversals", trace="reversals", label="rank reversals",
    ),
    Measure(
        "changed_selections", "share", "steps that committed other positions than without the scale",
        "steps whose selection differs from that at r = 1 / steps that committed tokens", label="changed selections",
        sample="guidance.changed_selections", metrics="guidance.changed_selections", trace="changed_selection",
    ),
    Measure(
        "confidence", "probability", "the model's probability of a token when it was committed",
        "probability of the committed token under the guided, untempered softmax", trace="confidence",
    ),
    Measure(
        "near_ties", "share", "committed tokens that the last bit of the model's dtype could have changed",
        "near ties / commits", sample="near_ties / committed", metrics="near_ties", trace="near_tie",
        label="near ties",
    ),
    Measure("length", "tokens", "tokens before the first end token", "position of the first end token", sample="length"),
    Measure("committed", "tokens", "commits, including those that were masked again", "number of commits", sample="committed"),
    Measure(
        "remasked", "tokens", "committed tokens that were masked again", "commits − positions committed",
        sample="remasked", trace="remasked_at",
    ),
    Measure(
        "edited", "tokens", "committed tokens that another replaced", "number of edits",
        sample="edited", trace="edited_from",
    ),
]  # fmt: skip

# --- cost ---------------------------------------------------------------------------------------------------------


def _cost(name: str, unit: str, description: str, formula: str, **more: Any) -> Iterator[Measure]:
    """A cost per example, and its total over a run."""
    label = more.pop("label", "")
    where = more.pop("where", f"cost.{name}")
    yield Measure(
        name, unit, f"{description}, per example", formula, "down", label=label, source=COST,
        sample=where, metrics=f"{where} / examples", **more,
    )  # fmt: skip
    total = f"total {label or name}"
    yield Measure(
        f"total_{name}", unit, f"{description}, in total", f"sum over examples: {formula}", "down", label=total,
        source=COST, metrics=where,
    )  # fmt: skip


COSTS = [
    *_cost(
        "mdm_passes", "passes", "passes through the model",
        "forward passes in which the example took part; two per step with sampler.cfg_scale", label="model passes",
        paired=True,
    ),
    *_cost(
        "mdm_rows", "canvases", "canvases in the passes through the model",
        "canvases of the example in those passes: more than passes if steps are drafted or look ahead", label="model rows",
    ),
    *_cost(
        "mdm_tokens", "tokens", "tokens through the model",
        "tokens of prompt and completion in those passes, without padding", label="model tokens",
    ),
    *_cost("mdm_seconds", "seconds", "time in the model", "the example's share of the model's time"),
    *_cost(
        "reward_calls", "calls", "texts scored by the reward while decoding",
        "texts scored; the final score of the completion counts only if a search chooses by it",
        label="reward calls", paired=True,
    ),
    *_cost(
        "reward_cache_hits", "calls", "unchanged texts whose reward came from the cache",
        "texts equal to the last one of the example", label="reward calls from the cache",
    ),
    *_cost(
        "reward_tokens", "tokens", "tokens through the reward model",
        "tokens that the reward model read; a gradient counts three times", label="reward tokens",
    ),
    *_cost("reward_seconds", "seconds", "time in the reward", "the example's share of the reward's time"),
    *_cost(
        "tokens", "tokens", "tokens through model and reward", "mdm_tokens + reward_tokens",
        where="cost.mdm_tokens + cost.reward_tokens", paired=True,
    ),
    *_cost("seconds", "seconds", "decoding time", "the example's share of the time of its batch", paired=True),
    Measure(
        "tokens_per_second", "tokens per second", "decoding speed", "commits / seconds of decoding", "up",
        metrics="cost.tokens_per_second", source=COST, label="tokens/s",
    ),
    Measure(
        "setup_seconds", "seconds", "time to load model, reward and benchmark", "wall time before decoding", "down",
        metrics="cost.setup_seconds", source=COST,
    ),
    Measure(
        "run_seconds", "seconds", "time of the whole run", "wall time, all attempts added", "down",
        metrics="cost.run_seconds", source=COST, label="whole run",
    ),
    Measure(
        "peak_memory_bytes", "bytes", "peak memory", "largest GPU memory allocated, or resident memory without a GPU",
        "down", metrics="cost.peak_memory_bytes", source=COST, label="peak memory",
    ),
]  # fmt: skip

# --- comparisons --------------------------------------------------------------------------------------------------

COMPARISONS = [
    Measure(
        "p", "probability", "p-value of the difference in accuracy to the first line",
        "McNemar's exact test, or a permutation test where seeds were averaged; Holm's correction over lines",
        "down", source=STATISTICS,
    ),
    Measure(
        "win_rate", "share", "questions won against the first line, by a judge's verdicts",
        "mean over questions: 1 if preferred in both orders, 0 if the other was, else 1/2", "up", label="win rate",
    ),
    *(
        Measure(
            f"win_rate.{k}", "share", "win rate in one fifth of the questions, sorted by GOD; the first has the lowest",
            "win_rate of the questions in fifth k by the mean GOD of their judged completions", "up",
            label=f"win rate {k}/5",
            source=f"{RWS}, section 6.1",
        )
        for k in (1, 2, 3, 4, 5)
    ),
    Measure(
        "overhead", "share", "extra time relative to the first line", "seconds / seconds of the first line − 1", "down",
        source=STATISTICS,
    ),
    Measure(
        "speedup", "factor", "speed relative to the first line", "seconds of the first line / seconds", "up",
        source=STATISTICS,
    ),
    Measure(
        "same_completions", "share", "completions with the same tokens as in the first line",
        "completions equal to those of the run with the same seed / completions", label="same completions",
        source=STATISTICS,
    ),
]  # fmt: skip

MEASURES: dict[str, Measure] = {
    measure.name: measure for measure in (*QUALITY, *ORDER, *map(_with_eos, ORDER), *GUIDANCE, *COSTS, *COMPARISONS)
}
"""All measures but those of metrics, by name."""
GOD_IN_WORDS = f"GOD: {MEASURES['god'].description}"


# --- metrics ------------------------------------------------------------------------------------------------------

DECLARED = ("description", "unit", "formula", "better", "paired", "label", "source")
"""Fields that a metric may declare for a measure. paired: there is a value per example."""


def of_metric(name: str, kind: str) -> list[Measure]:
    """The measures that a kind of metric declares, under its name in a configuration, such as "length.words"."""
    source = registry.available("metric").get(kind)
    declared = source.facts.get("measures", {}) if source else {}
    return [_declared(f"{name}.{key}", about, kind) for key, about in declared.items()]


def _declared(name: str, about: str | dict[str, Any], kind: str) -> Measure:
    """A measure from a metric's declaration: a description, or a dict of fields. Raises UsageError for unknown fields."""
    fields = {"description": about} if isinstance(about, str) else about
    if unknown := next((field for field in fields if field not in DECLARED), None):
        raise UsageError(f"metric={kind} declares {unknown} of its measure {name}: {choose_from(unknown, DECLARED)}")
    measure = Measure(
        **{"name": name, "unit": "", "description": "", "paired": True, "source": f"metric={kind}"} | fields
    )
    where = f"measures.{name}"
    return replace(measure, sample=where if measure.paired else "", metrics=where)


def measure(name: str, metrics: Any = None) -> Measure:
    """The measure with a name. metrics: those of a run's configuration, whose names may be the user's own. Results that are
    not declared, such as those of a module of `evaluate`, are measures without a unit."""
    if name in MEASURES:
        return MEASURES[name]
    metric = name.partition(".")[0]
    settings = metrics.get(metric) if isinstance(metrics, Mapping) else None
    kind = str(settings.get("kind", metric)) if isinstance(settings, Mapping) else metric
    declared = {measure.name: measure for measure in of_metric(metric, kind)}
    return declared.get(name) or _declared(name, f"as metric={kind} computes it", kind)


def all_measures() -> dict[str, Measure]:
    """All measures by name, including those of metrics."""
    of_metrics = [measure for kind in registry.available("metric") for measure in of_metric(kind, kind)]
    return MEASURES | {measure.name: measure for measure in of_metrics}


def named(name: str) -> Measure:
    """The measure with a name, or a family of measures with a number, such as "pass@k". Raises UsageError."""
    measures = all_measures()
    if name in measures:
        return measures[name]
    families = {family(each): measure for each, measure in reversed(measures.items())}
    if name not in families:
        hint = nearest(name, [*measures, *families]) or "."
        raise UsageError(f"{name} is not a measure{hint} rws list measure shows them all.")
    first = families[name]
    return replace(
        first, name=name, label=family(first.label), sample=family(first.sample), metrics=family(first.metrics)
    )


def family(name: str) -> str:
    """The name of a measure's family: "pass@k" for "pass@5"."""
    return re.sub(r"(@|pass_at\.|win_rate\.|win rate )\d+", r"\1k", name)


def run_values(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """A run's measures by name, from metrics.json, with the ends of intervals: `accuracy_low`, `accuracy_high`."""
    values: dict[str, float | None] = {}
    for name, each in MEASURES.items():
        if each.metrics:
            values[name] = each.of_run(metrics)
        if f"{name}_interval" in metrics:
            values[f"{name}_low"], values[f"{name}_high"] = metrics[f"{name}_interval"] or (None, None)
    return values | metrics.get("measures", {})


def paired_measures(samples: Sequence[Mapping[str, Any]], metrics: Any) -> dict[str, Measure]:
    """The measures by which runs are compared: those of the registry, and those of metrics that every sample has."""
    names = [name for name in samples[0]["measures"] if all(name in sample["measures"] for sample in samples)]
    of_metrics = {name: replace(measure(name, metrics), sample=f"measures.{name}", paired=True) for name in names}
    return {name: each for name, each in MEASURES.items() if each.paired} | of_metrics
