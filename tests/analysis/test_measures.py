"""The registry of measures: that it is complete, and that each measure is what its formula says."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import manifest_of

from rws_cli import registry
from rws_cli.analysis.compare import compared
from rws_cli.analysis.guidance import guidance_statistics
from rws_cli.analysis.measures import MEASURES, WITH_EOS, all_measures, family, measure, named, run_values
from rws_cli.analysis.order import DEFAULT_GOD, order_statistics
from rws_cli.analysis.run import Run
from rws_cli.analysis.summary import PASS_AT, summarize
from rws_cli.analysis.table import grid_of
from rws_cli.analysis.verdicts import completions_hash
from rws_cli.cli.measures import facts_of
from rws_cli.decoding.record import Cost, RowTrace
from rws_cli.errors import UsageError
from rws_cli.report.compare import comparison_sheets
from rws_cli.report.figures import FIGURES
from rws_cli.report.html import costs, means
from rws_cli.report.runs import load_report_runs
from rws_cli.report.terminal import rows_of

METHODS = (Path(__file__).parents[2] / "METHODS.md").read_text()

# --- a run made by hand -------------------------------------------------------------------------------------------

BLOCK = 2
TRACES = {
    "a": {"position": [2, 0, 1, 3], "step": [0, 0, 1, 3], "scale": [2.0, 2.0, 1.0, 4.0], "content": [1, 1, 1, 0]},
    "a 1": {"position": [3, 2, 1, 0], "step": [0, 1, 2, 3], "scale": [1.0, 1.0, 2.0, 2.0], "content": [1, 1, 1, 1]},
    "b": {"position": [0, 1, 2, 3], "step": [0, 1, 1, 2], "scale": [4.0, 2.0, 2.0, 1.0], "content": [1, 1, 0, 1]},
}  # fmt: skip
PAIRS = {0: (6, 3), 1: (3, 0), 2: (1, 1), 3: (0, 0)}
"""Step → pairs of open positions, and those that the scale turned around."""
CHANGED = {0: True, 1: False, 2: True, 3: False}
GRADES = {"a": (True, 1.0), "a 1": (False, 0.25), "b": (False, 0.5)}
REWARDS = {"a": 2.0, "a 1": -1.0, "b": 0.5}
COSTS = {
    "a": Cost(4, 40, 0.5, 3, 1, 30, 0.25, 1.0, 6), "a 1": Cost(4, 44, 0.25, 2, 2, 24, 0.5, 2.0, 4),
    "b": Cost(2, 20, 0.5, 1, 0, 8, 0.0, 1.5, 7),
}  # fmt: skip
TIES = {"a": 1, "a 1": 0, "b": 2}
TEXTS = {"a": "one two One two", "a 1": "three", "b": "two two two"}


def sample_of(name: str) -> dict[str, Any]:
    made = TRACES[name]
    n = len(made["step"])
    trace = RowTrace(
        step=made["step"], position=made["position"], token=[7] * n, confidence=[0.5] * n, reward=[0.0] * n,
        scale=made["scale"], pairs=[PAIRS[s][0] for s in made["step"]], reversals=[PAIRS[s][1] for s in made["step"]],
        changed_selection=[CHANGED[s] for s in made["step"]],
    )  # fmt: skip
    order = (made["position"], made["step"], BLOCK)
    correct, partial = GRADES[name]
    return {
        "id": name, "question": name[0], "reward": REWARDS[name], "completion": TEXTS[name],
        "grade": {"correct": correct, "partial": partial, "extracted": "", "extractor": ""},
        "order": order_statistics(*order, [bool(c) for c in made["content"]]), "order_with_eos": order_statistics(*order),
        "guidance": guidance_statistics(trace), "measures": {}, "tokens": [7] * n, "length": n - 1, "committed": n,
        "remasked": 1, "near_ties": TIES[name], "cost": vars(COSTS[name]),
    }  # fmt: skip


SPENT = {"setup_seconds": 3.0, "run_seconds": 9.0, "peak_memory_bytes": 1 << 20}


def run_of(samples: list[dict[str, Any]], label: str = "x", seed: int = 0, **config: Any) -> Run:
    metrics = summarize(samples) | {"measures": {}, "failed": 2}
    metrics["cost"] |= SPENT
    groups = {group: {"name": "x"} for group in ("model", "reward", "benchmark")}
    settings = groups | {"seed": seed, "sampler": {"name": label}, "label": label} | config
    return Run(Path(label), manifest_of(settings), 1, {s["id"]: s for s in samples}, metrics)


# --- slow definitions ---------------------------------------------------------------------------------------------


def slow_order(trace: dict[str, Any], with_eos: bool) -> dict[str, float]:
    """The order statistics of one completion, from their formulas in words. No statistic is missing in these traces."""
    tokens = [
        (s, p) for s, p, c in zip(trace["step"], trace["position"], trace["content"], strict=True) if c or with_eos
    ]
    steps, n = sorted({s for s, _ in tokens}), len(tokens)

    def rank(value: int, values: list[int]) -> float:
        return sum(v < value for v in values) + (values.count(value) - 1) / 2

    def god_tokens(some: list[tuple[int, int]]) -> float:
        gaps = [abs(rank(s, [t for t, _ in some]) - rank(p, [q for _, q in some])) for s, p in some]
        return sum(gaps) / len(gaps)

    def god_steps(some: list[tuple[int, int]]) -> float:
        inside = sorted({s for s, _ in some})
        left_to_right = sorted(inside.index(s) for s, _ in some)
        by_position = sorted((p, inside.index(s)) for s, p in some)
        return sum(abs(a - b) for (_, a), b in zip(by_position, left_to_right, strict=True)) / len(some)

    blocks = [[t for t in tokens if t[1] // BLOCK == k] for k in (0, 1)]
    pairs = list(itertools.combinations(tokens, 2))
    concordant = sum(math.copysign(1, (s - t) * (p - q)) for (s, p), (t, q) in pairs if s != t)
    untied = sum(s != t for (s, _), (t, _) in pairs)
    ordered = [p for _, p in sorted(tokens)]
    ranks = [(rank(s, [t for t, _ in tokens]), rank(p, [q for _, q in tokens])) for s, p in tokens]
    mean_rank = (n - 1) / 2
    covariance = sum((a - mean_rank) * (b - mean_rank) for a, b in ranks)
    variances = [sum((r[k] - mean_rank) ** 2 for r in ranks) for k in (0, 1)]
    centers = [sum(p for s, p in tokens if s == step) / sum(s == step for s, _ in tokens) for step in steps]
    found = {
        "god": god_tokens(tokens),
        "god_steps": god_steps(tokens),
        "god_tokens_in_block": sum(god_tokens(block) * len(block) for block in blocks if block) / n,
        "god_steps_in_block": sum(god_steps(block) * len(block) for block in blocks if block) / n,
        "kendall_tau": concordant / math.sqrt(len(pairs) * untied),
        "spearman": covariance / math.sqrt(variances[0] * variances[1]),
        "backward_share": sum(b < a for a, b in itertools.pairwise(centers)) / (len(centers) - 1),
        "mean_jump": sum(abs(a - b) for a, b in itertools.pairwise(ordered)) / (n - 1),
    }
    for k in (1, 2, 4):
        runs = [ordered[i : i + k + 1] for i in range(n - k)]
        if runs:
            hits = [all(b == a + 1 for a, b in itertools.pairwise(run)) for run in runs]
            found[f"local_ar_ness@{k}"] = sum(hits) / len(hits)
        leftmost = [p in sorted(ordered[i:])[:k] for i, p in enumerate(ordered)]
        found[f"global_ar_ness@{k}"] = sum(leftmost) / n
    return {f"{name}{WITH_EOS if with_eos else ''}": value for name, value in found.items()}


def slow_sample(name: str) -> dict[str, float]:
    """All measures of one example."""
    trace, cost = TRACES[name], COSTS[name]
    scales = dict(zip(trace["step"], trace["scale"], strict=True))
    correct, partial = GRADES[name]
    return slow_order(trace, False) | slow_order(trace, True) | {
        "accuracy": 1.0 if correct else 0.0, "partial": partial, "reward": REWARDS[name],
        "scale": sum(scales.values()) / len(scales), "temperature": sum(1 / s for s in scales.values()) / len(scales),
        "reversals": sum(PAIRS[s][1] for s in scales) / sum(PAIRS[s][0] for s in scales),
        "changed_selections": sum(CHANGED[s] for s in scales) / len(scales),
        "near_ties": TIES[name] / 4, "length": 3, "committed": 4, "remasked": 1,
        "mdm_passes": cost.mdm_passes, "mdm_rows": cost.mdm_rows, "mdm_tokens": cost.mdm_tokens, "mdm_seconds": cost.mdm_seconds,
        "reward_calls": cost.reward_calls, "reward_cache_hits": cost.reward_cache_hits,
        "reward_tokens": cost.reward_tokens, "reward_seconds": cost.reward_seconds, "seconds": cost.seconds,
        "tokens": cost.mdm_tokens + cost.reward_tokens,
    }  # fmt: skip


def slow_run() -> dict[str, float]:
    """All measures of the whole run: of its three completions to two questions."""
    each = [slow_sample(name) for name in TRACES]
    names = dict.fromkeys(name for values in each for name in values)
    found = {}
    for name in names:
        defined = [values[name] for values in each if name in values]
        found[name] = sum(defined) / len(defined)
    for name in ("length", "committed", "remasked"):  # of examples alone
        del found[name]
    steps = [set(trace["step"]) for trace in TRACES.values()]
    pairs = [sum(PAIRS[s][k] for some in steps for s in some) for k in (0, 1)]
    found |= {"reversals": pairs[1] / pairs[0], "near_ties": sum(TIES.values()) / 12}
    costs = [name for name, each in MEASURES.items() if f"total_{name}" in MEASURES]
    found |= {f"total_{name}": sum(values[name] for values in each) for name in costs}
    # Question a has one correct completion of two, question b has none of one; k completions of b are one or none.
    found |= {"pass@1": (1 / 2 + 0) / 2, "pass@2": 1.0}
    found |= {"examples": 3, "failed": 2, "tokens_per_second": 12 / 4.5} | SPENT
    return found


# --- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACES)
def test_each_measure_of_an_example_is_what_its_formula_says(name: str) -> None:
    sample, expected = sample_of(name), slow_sample(name)
    for each in (each for each in MEASURES.values() if each.sample):
        value = each.of_sample(sample)
        assert (value is None) == (each.name not in expected), each.name
        assert value is None or value == pytest.approx(expected[each.name]), each.name


def test_each_measure_of_a_run_is_what_its_formula_says() -> None:
    samples, expected = [sample_of(name) for name in TRACES], slow_run()
    run = run_of(samples)
    assert run.metrics is not None
    values = run_values(run.metrics)
    low, high = values.pop("accuracy_low"), values.pop("accuracy_high")
    assert (low, high) == (0.0, 0.5)  # of question a one half is correct, of b nothing
    assert {name for name, value in values.items() if value is not None} == set(expected)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value), name


def test_each_measure_of_a_comparison_is_what_its_formula_says() -> None:
    """The second line needs twice the seconds, has one other completion, and grades all completions the other way."""
    columns = [
        name for name, each in MEASURES.items() if not (each.sample or each.metrics or each.trace) and name != "p"
    ]
    base = [sample_of(name) for name in TRACES]
    other = [
        sample | {"cost": sample["cost"] | {"seconds": 2 * sample["cost"]["seconds"]}, "tokens": [n % 2] * 4}
        for n, sample in enumerate(base)
    ]
    for sample in base:
        sample["tokens"] = [0] * 4
    for sample in (*base, *other):
        sample |= {"prompt": "", "reference": "", "history": []}
    runs = [run_of(base, "x", table={"columns": columns}), run_of(other, "y")]
    lines = compared(runs)
    assert lines[1].p == 1.0
    cells = dict(zip(columns, dict(grid_of(lines).rows)["y"], strict=True))
    assert cells["overhead"].value == pytest.approx(1.0)
    assert cells["speedup"].value == pytest.approx(0.5)
    assert cells["same_completions"].value == pytest.approx(2 / 3)
    assert set(columns) == {
        "overhead",
        "speedup",
        "same_completions",
        "win_rate",
        *(f"win_rate.{k}" for k in range(1, 6)),
    }


def test_win_rates_are_what_their_formula_says() -> None:
    """Five questions, the later ones decoded further from left to right: won, tied, lost, won, tied by a judge's turns."""
    outcomes = {
        "a": (1.0, 1.0, 1.0),
        "b": (0.0, 1.0, 0.5),
        "c": (0.0, 0.0, 0.0),
        "d": (1.0, 1.0, 1.0),
        "e": (0.5, 0.5, 0.5),
    }
    sides = []
    for _ in range(2):
        samples = [
            sample_of("a") | {"id": q, "question": q, "prompt": "", "reference": "", "history": []} for q in outcomes
        ]
        for n, sample in enumerate(samples):
            sample["order"] = sample["order"] | {"god_tokens": float(n)}
        sides.append(samples)
    columns = ["win_rate", *(f"win_rate.{k}" for k in range(1, 6))]
    verdicts = [
        {"id": q, "order": order, "first": first, "completions": completions_hash(*pair)}
        for (q, (second, preferred_first, _)), pair in zip(outcomes.items(), zip(*sides, strict=True), strict=True)
        for order, first in ((0, 1 - second), (1, preferred_first))
    ]
    base = run_of(sides[0], "x", table={"columns": columns})
    about = {"judge": {"name": "j"}, "against": {"config_hash": "x"}, "verdicts": verdicts}
    other = replace(run_of(sides[1], "y"), judged=[about])
    cells = dict(zip(columns, dict(grid_of(compared([base, other])).rows)["y"], strict=True))
    expected = [outcome for *_, outcome in outcomes.values()]
    assert cells["win_rate"].value == pytest.approx(sum(expected) / 5)
    assert [cells[f"win_rate.{k}"].value for k in range(1, 6)] == expected


@pytest.mark.parametrize("kind", ["diversity", "length", "repetition", "keyword_coverage"])
def test_each_measure_of_a_metric_is_what_its_formula_says(kind: str) -> None:
    texts = list(TEXTS.values())
    words = [text.lower().split() for text in texts]

    def grams(some: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(some[i : i + n]) for i in range(len(some) - n + 1)]

    def share(some: list[Any]) -> float | None:
        return len(set(some)) / len(some) if some else None

    question_a = words[:2]
    expected: dict[str, Any] = {"words": [4, 1, 3], "characters": [15, 5, 11], "share": [0.5, None, 1.0], "unique": 1.0}
    for n in (1, 2, 3, 4):
        repeated = [share(grams(some, n)) for some in words]
        expected[f"rep_{n}"] = [None if value is None else 1 - value for value in repeated]
        expected[f"distinct_{n}"] = share([gram for some in question_a for gram in grams(some, n)])
    metric = registry.load("metric", kind, "metric")(kind=kind)
    inputs = {"predictions": texts, "questions": ["a", "a", "b"], "keywords": [["two", "six"], [], ["TWO"]]}
    computed = metric.compute(**{name: inputs[name] for name in metric.inputs})
    assert {f"{kind}.{key}" for key in computed} == {name for name in all_measures() if name.startswith(f"{kind}.")}
    for key in computed.keys() - {"self_bleu"}:  # against its definition in tests/metrics
        values, wanted = computed[key], expected[key]
        assert (values if isinstance(values, list) else [values]) == (
            [pytest.approx(v) if v is not None else None for v in wanted]
            if isinstance(wanted, list)
            else [pytest.approx(wanted)]
        )
        assert measure(f"{kind}.{key}").paired == isinstance(values, list)


# --- completeness -------------------------------------------------------------------------------------------------


def leaves(node: Any, at: str = "") -> set[str]:
    if isinstance(node, dict):
        return {leaf for key, value in node.items() for leaf in leaves(value, f"{at}.{key}".lstrip("."))}
    return {at}


def paths(field: str, names: Any) -> set[str]:
    return {path for each in names for path in re.split(r" [+/] ", getattr(each, field)) if path}


TEXT_FIELDS = {"id", "question", "history", "prompt", "completion", "reference", "grade.extracted", "grade.extractor"}
LISTS = {"tokens", "particles", "guidance.reversals_by_progress", "accuracy_interval"}
"""The tokens themselves, the scores of a search's particles, `reversals` and `accuracy` in parts."""


@pytest.fixture
def sweep(rws, small: list[str], tmp_path: Path) -> Path:
    result = rws("run", "-m", *small, "sampler=confidence,rws", "metric=[length,diversity]")
    assert result.exit_code == 0, result.output
    return tmp_path / "outputs/multirun/v001"


def is_measure(name: str) -> bool:
    """Whether a column of a flat file is a measure or belongs to one."""
    return (
        re.sub(r"(_difference)?(_low|_high|_published)?$", "", name).removesuffix("_against_confidence")
        in all_measures()
    )


def test_what_files_and_tables_show_is_in_the_registry(rws, sweep: Path) -> None:
    run, known = sweep / "1", all_measures().values()
    line = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    in_files = {each for each in known if "diversity" in each.name or "length." in each.name or "." not in each.name}
    assert leaves(line) - TEXT_FIELDS - LISTS == paths("sample", in_files)
    metrics = leaves(json.loads((run / "metrics.json").read_text()))
    assert metrics - LISTS - {"god", "pass_at"} == {
        p for p in paths("metrics", in_files) if not p.startswith("pass_at.")
    }
    trace = set(pq.read_table(run / "trace.parquet").column_names)
    assert trace - {"id", "step", "position", "token", "text", "pairs"} == paths("trace", known)

    with (sweep / "sweep.csv").open() as file:
        columns = next(csv.reader(file))
    about = [
        "job",
        "sampler",
        "benchmark.name",
        "model.name",
        "reward.name",
        "sampler.name",
        "seed",
        "overrides",
        "status",
        "error",
    ]
    assert columns[: len(about)] == about
    assert all(map(is_measure, columns[len(about) :]))
    assert rws("table", str(sweep)).exit_code == rws("pareto", str(sweep)).exit_code == 0
    for name, words in (("table.csv", {"label"}), ("pareto.csv", {"task", "family", "sampler", "settings"})):
        with (sweep / name).open() as file:
            assert {column for column in next(csv.reader(file)) if not is_measure(column)} == words


def test_what_people_read_has_the_names_of_the_registry(sweep: Path) -> None:
    runs, lines = load_report_runs([sweep / "0", sweep / "1"])
    names = {text for each in all_measures().values() for text in (each.display_name, each.heading, each.with_unit)}
    headers = {header for sheet in (*comparison_sheets(lines), costs(runs)) for header in sheet.headers}
    assert headers - names == {"sampler", "seed(s)", "difference", "run"}
    assert {row[0] for row in means(runs[1]).rows} <= names
    assert {name for name, _ in rows_of(json.loads((sweep / "1" / "metrics.json").read_text()))} <= names
    assert {column.display_name for column in grid_of(lines).columns} <= names
    labels = set()
    for draw in FIGURES.values():
        for axes in draw(runs, runs[0].samples[0]["id"]).axes:
            labels |= {axes.get_xlabel().partition(", 0:")[0], axes.get_ylabel()}
    assert labels - names == {"", "step", "position", "share of examples", "tokens committed, %"}


def test_order_statistics_and_k_are_those_of_the_code() -> None:
    assert MEASURES["god"].sample == f"order.{DEFAULT_GOD}"
    statistics = {f"order.{name}" for name in order_statistics([0, 1], [0, 1], 2)}
    assert {each.sample for each in MEASURES.values() if each.sample.startswith("order.")} == statistics
    assert [name for name in MEASURES if name.startswith("pass@")] == [f"pass@{k}" for k in PASS_AT]


def test_what_is_said_of_a_measure() -> None:
    for each in all_measures().values():
        assert each.unit, each.name
        assert each.formula, each.name
        assert each.description[0].islower() or each.description[:3] in ("GOD", "p-v", "2-g", "3-g", "4-g"), each.name
        for section in re.findall(r"METHODS\.md, (\w+)", each.source):
            assert re.search(rf"^#+ .*\b{section}$", METHODS, re.MULTILINE), section
        if each.paired:
            assert each.sample, each.name
    labels = [each.display_name for each in all_measures().values()]
    assert len(set(labels)) == len(labels)


# --- names --------------------------------------------------------------------------------------------------------


def test_rws_list_measure(rws) -> None:
    listed = rws("list", "measure").output.splitlines()
    assert {line.split()[0] for line in listed} == {
        f"…{WITH_EOS}", *(family(name) for name in all_measures() if not name.endswith(WITH_EOS))
    }  # fmt: skip
    assert re.search(
        r"^god +tokens +mean distance from left-to-right order, in tokens$", "\n".join(listed), re.MULTILINE
    )
    assert "  accuracy" in rws("list").output
    assert "measure" in rws("list", "--help").output


@pytest.mark.parametrize(
    "name", ["god", "pass@k", "pass@5", "win_rate.k", "total_tokens", "length.words", "god_with_eos"]
)
def test_rws_list_measure_of_one(rws, name: str) -> None:
    result = rws("list", "measure", name)
    assert result.exit_code == 0, result.output
    assert re.search(rf"^name +{re.escape(name)} *$", result.output, re.MULTILINE)
    found = named(name)
    for text in (found.unit, found.formula, found.source, found.sample, found.metrics):
        assert text in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("line", "expected"), [("rws list mea", ["measure"]), ("rws list measure god_st", ["god_steps"])]
)
def test_groups_and_measures_are_completed(line: str, expected: list[str]) -> None:
    typed = {"_RWS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    code = "import sys; sys.argv = ['rws']; from rws_cli.cli import entry; entry()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | typed)
    assert [word for word in done.stdout.split() if WITH_EOS not in word and "in_block" not in word] == expected


def test_facts_of_a_measure() -> None:
    facts = dict(facts_of(named("partial")))
    assert facts["in tables"] == "partial credit, %"
    assert facts["better"] == "higher is better"
    assert facts["compared"].startswith("example by example")
    assert (facts["samples.jsonl"], facts["metrics.json"]) == ("grade.partial", "partial")
    assert "computed" in dict(facts_of(named("speedup")))


@pytest.mark.parametrize(("typed", "meant"), [("accurracy", "accuracy"), ("pass@", "pass@k"), ("mean_reward", "")])
def test_an_unknown_measure_is_answered_with_the_nearest(rws, typed: str, meant: str) -> None:
    result = rws("list", "measure", typed)
    assert result.exit_code == 2
    assert f"{typed} is not a measure" in result.output
    assert f"did you mean {meant}" in result.output
    assert "rws list measure shows them all" in " ".join(result.output.split())


def test_a_metric_may_be_called_otherwise_and_declare_little(tmp_path: Path) -> None:
    assert measure("mine.words", {"mine": {"kind": "length"}}).unit == "words"
    unknown = measure("mine.rouge1", {"mine": {"kind": "evaluate"}})
    assert (unknown.unit, unknown.percent, unknown.sample) == ("", False, "measures.mine.rouge1")
    (tmp_path / "metrics").mkdir()
    text = '"""x"""\nfrom rws_cli.metrics.base import Metric\nfrom rws_cli.part import part\n\n\n@part\nclass Mine(Metric):\n'
    (tmp_path / "metrics" / "mine.py").write_text(text + '    measures = {"a": "what a is", "b": {"units": "share"}}\n')
    registry.set_folders([str(tmp_path)])
    try:
        with pytest.raises(UsageError, match="declares units of its measure mine.b.*did you mean unit"):
            named("mine.a")
        (tmp_path / "metrics" / "mine.py").write_text(
            text + '    measures = {"a": "what a is", "b": {"unit": "share"}}\n'
        )
        registry._parsed.cache_clear()
        registry.set_folders([str(tmp_path)])
        assert named("mine.a").description == "what a is"
        assert named("mine.b").percent
    finally:
        registry.set_folders([])
