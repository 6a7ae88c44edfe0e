"""METHODS.md says what is: its defaults, constants, names, paths and tests are looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rws_cli import registry
from rws_cli.analysis.order import order_statistics
from rws_cli.analysis.statistics import RESAMPLES
from rws_cli.config.catalog import CONF, choices
from rws_cli.config.composing import unchecked

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "METHODS.md").read_text()
CODE = re.findall(r"`([^`]+)`", TEXT)
"""All that stands in backquotes."""
PATH = re.compile(r"[\w./-]+/[\w./-]+")
NO_TOKENS = ("name", "device", "device_map", "batch_size", "trust_remote_code", "needs_remote_code")
"""Settings of models and rewards that decide no token."""


def table(*headers: str) -> list[list[str]]:
    """The cells of the table with these headers, row by row."""
    head = f"| {' | '.join(headers)} |\n"
    assert TEXT.count(head) == 1, head
    rows = TEXT.partition(head)[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def flat(node: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {at: node}
    return {
        key: value for name, inner in node.items() for key, value in flat(inner, f"{at}.{name}".lstrip(".")).items()
    }


@pytest.fixture(scope="module")
def settings() -> dict[str, dict[str, Any]]:
    """By sampler ("": a run without overrides) what it composes to, by dotted key."""
    found = {}
    for name in ("", *choices("sampler")):
        composed = unchecked(f"sampler={name}") if name else unchecked()
        if name == "replay":
            composed.sampler.guidance.run = "a run"
        found[name] = flat(OmegaConf.to_container(composed, resolve=True))
    return found


def test_paths_and_tests_are_there() -> None:
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = [code.split("::") for code in CODE if "::" in code]
    assert len(named) > 50
    for file, name in named:
        assert re.search(rf"^ *def {name}\(", tests[file], re.MULTILINE), f"{file}::{name}"
    paths = [code for code in CODE if PATH.fullmatch(code)] + re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(paths) > 30
    for path in (*paths, *(code for code in CODE if re.fullmatch(r"\w+\.py", code))):
        assert (ROOT / path).exists() or (ROOT / "rws_cli" / path).exists(), path


def test_defaults_are_those_of_conf(settings: dict[str, dict[str, Any]]) -> None:
    said: dict[str, Any] = {}
    for keys, default, why in table("key", "default", "why"):
        values = [yaml.safe_load(value) for value in quoted(default)]
        values = values * len(quoted(keys)) if len(values) == 1 else values
        said |= dict(zip(quoted(keys), values, strict=True))
        assert why
    composed = settings[""]
    assert {key: composed[key] for key in said} == said
    groups = ("model.", "reward.", "sampler.", "benchmark.", "runtime.cache")
    expected = {key for key in composed if key.startswith(groups) and key.rpartition(".")[2] not in NO_TOKENS}
    elsewhere = {key for key in expected if key.startswith("sampler.guidance.")} - {"sampler.guidance.kind"}
    assert set(said) == {"seed", *expected} - elsewhere  # those are in the table of options


def test_what_samplers_set_is_said(settings: dict[str, dict[str, Any]]) -> None:
    said: dict[str, dict[str, Any]] = {name: {} for name in choices("sampler")}
    for samplers, _, _, values, *_ in table("sampler", "paper", "rule", "settings", "differs", "test"):
        whose = quoted(samplers)
        for words in quoted(values):
            if words in said:  # what follows is this one's alone
                whose = [words]
                continue
            key, _, value = words.partition("=")
            for name in whose:
                said[name][key] = yaml.safe_load(value)
    for control, what, _ in table("control", "what it is", "what it tests"):
        for words in quoted(what):
            if "=" in words:
                key, _, value = words.partition("=")
                said[quoted(control)[0].removeprefix("sampler=")][key] = yaml.safe_load(value)
    for option, default, *_ in table("option", "default", "values", "why"):
        said["rws"][f"guidance.{quoted(option)[0]}"] = yaml.safe_load(quoted(default)[0])
    scaled = {key: value for key, value in settings["rws"].items() if key.startswith("sampler.guidance.")}
    for name in choices("sampler"):
        base = settings["confidence"]
        if name != "rws" and settings[name]["sampler.guidance.kind"] == "rws":
            base = base | scaled  # what rws sets is in its own table
        own = {
            key.removeprefix("sampler."): value
            for key, value in settings[name].items()
            if key.startswith("sampler.") and base.get(key) != value
        }
        own = {k: v for k, v in own.items() if k not in ("name", "guidance.run") and not k.endswith(".kind")}
        assert said[name] == own, name


def test_every_sampler_has_its_rule_and_test() -> None:
    rows = table("sampler", "paper", "rule", "settings", "differs", "test")
    assert all("::" in row[-1] for row in rows)
    methods = {name for row in rows for name in quoted(row[0])}
    assert methods == set(choices("sampler")) - {"rws", "temperature", "replay"}
    assert {
        "sampler=constant_scale",
        "sampler=recorded_scale",
        "reward=constant",
        "reward=shuffled",
        "reward=verifier",
    } <= set(CODE)


def test_every_option_of_guidance_is_named() -> None:
    found = registry.available("guidance")
    settings = {name: setting for name, setting in found["rws"].settings.items() if name != "kind"}
    rows = {quoted(option)[0]: quoted(values) for option, _, values, _ in table("option", "default", "values", "why")}
    assert set(rows) == set(settings)
    for name, values in rows.items():
        assert set(settings[name].allowed.get("choices", ())) <= set(values), name
    assert set(found["replay"].settings["how"].allowed["choices"]) <= set(CODE)


def test_every_measure_is_named() -> None:
    order = order_statistics([0, 1], [0, 1], 2)
    assert set(order) == {key for keys, *_ in table("key", "formula", "range") for key in quoted(keys)}
    assert {"scale", "temperature", "reversals", "changed_selections", "reversals_by_progress"} <= set(CODE)
    assert {"accuracy", "partial", "pass_at", "reward", "order_with_eos", "failed"} <= set(CODE)
    measured = {f"{m.name}.{key}" for m in registry.available("metric").values() for key in m.facts["measures"]}
    said = {key for keys, *_ in table("key", "formula", "None of") for key in quoted(keys)}
    assert said <= measured
    assert {key.partition(".")[0] for key in measured} == {key.partition(".")[0] for key in said}


def test_every_field_of_cost_is_named() -> None:
    tree = ast.parse((ROOT / "rws_cli/decoding/record.py").read_text())
    cost = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Cost")
    fields = {node.target.id for node in cost.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert fields <= {key for row in table("field", "counts") for key in quoted(" ".join(row))}


def test_benchmarks_are_as_they_are() -> None:
    said = {}
    for names, version, lengths, *_ in table(
        "benchmark", "version", "gen_length", "read off the answer", "right if", "partial credit"
    ):
        for name, length in zip(quoted(names), lengths.split(","), strict=True):
            said[name] = (int(version), int(length))
    found = {}
    for name in choices("benchmark"):
        composed = yaml.safe_load((CONF / "benchmark" / f"{name}.yaml").read_text())
        found[name] = (registry.available("benchmark")[composed["kind"]].facts["version"], composed["gen_length"])
    assert said == found


def test_constants_are_those_of_the_code() -> None:
    section = TEXT.partition("No options: ")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+) = ([^`]+)`\s+\(`([\w./]+)`\)", section)
    assert len(named) == 11
    for name, value, file in named:
        tree = ast.parse((ROOT / "rws_cli" / file).read_text())
        found = next(
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [name]
        )
        assert ast.literal_eval(found) == ast.literal_eval(" ".join(value.split())), name
    assert f"{RESAMPLES - 1:,} resamples" in TEXT


def test_deviations_are_numbered_and_pointed_at() -> None:
    listed = re.findall(r"^- \*\*D(\d+)\*\*", TEXT, re.MULTILINE)
    assert listed == [str(n + 1) for n in range(len(listed))]
    assert set(re.findall(r"\bD(\d+)\b", TEXT)) == set(listed)
