"""METHODS.md is true: its defaults, constants, names, papers, paths, tests and links are looked up."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
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
"""Everything in backquotes."""
PATH = re.compile(r"[\w./-]+/[\w./-]+")
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
DECIDE_NO_TOKEN = ("name", "device", "device_map", "batch_size", "trust_remote_code", "needs_remote_code")
"""Settings of models and rewards that decide no token."""


def table(*headers: str) -> list[list[str]]:
    """The cells of the table with these headers, row by row."""
    head = f"| {' | '.join(headers)} |\n"
    assert TEXT.count(head) == 1, head
    rows = TEXT.partition(head)[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def flat(node: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {at: node}
    return {
        key: value for name, inner in node.items() for key, value in flat(inner, f"{at}.{name}".lstrip(".")).items()
    }


@dataclass(frozen=True)
class Method:
    """A section of a method: the samplers in its heading, and the text of each bullet by its label, as it is ordered."""

    samplers: list[str]
    bullets: dict[str, str]


def methods() -> list[Method]:
    """Sections with the bullets of a method; their headings are names of samplers."""
    sections = re.findall(r"^### (.+)\n\n((?:.|\n)*?)(?=^##|\Z)", TEXT, re.MULTILINE)
    found = [
        Method(heading.split(", "), dict(re.findall(r"^- \*\*(\w+):\*\* (.+(?:\n  .+)*)", body, re.MULTILINE)))
        for heading, body in sections
    ]
    return [method for method in found if method.bullets]


@pytest.fixture(scope="module")
def settings() -> dict[str, dict[str, Any]]:
    """What each sampler composes to, by dotted key; "" is a run without overrides."""
    by_sampler = {}
    for name in ("", *choices("sampler")):
        composed = unchecked(f"sampler={name}") if name else unchecked()
        if name == "recorded_scale":
            composed.sampler.guidance.run = "a run"
        by_sampler[name] = flat(OmegaConf.to_container(composed, resolve=True))
    return by_sampler


def test_paths_tests_and_links_exist() -> None:
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = [code.split("::") for code in CODE if "::" in code]
    assert len(named) > 50
    for file, name in named:
        assert re.search(rf"^ *def {name}\(", tests[file], re.MULTILINE), f"{file}::{name}"
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    paths = [code for code in CODE if PATH.fullmatch(code)] + [link for link in links if not link.startswith("#")]
    assert len(paths) > 30
    for path in (*paths, *(code for code in CODE if re.fullmatch(r"\w+\.py", code))):
        assert (ROOT / path).exists() or (ROOT / "rws_cli" / path).exists(), path
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert "one-rws-step" in anchors  # README links to it
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors


def test_the_text_has_no_fences() -> None:
    """They would break the search for backquotes."""
    assert "```" not in TEXT


def test_the_pseudo_code_of_an_rws_step_names_what_exists() -> None:
    block = TEXT.partition("### One RWS step\n")[2].partition("\n### ")[0]
    named = re.findall(r"#.*?\b([A-Z]\w+)\.(\w+)", block)
    assert len(named) >= 8
    sources = [path.read_text() for path in (ROOT / "rws_cli").rglob("*.py")]
    for owner, method in named:
        declared = [source for source in sources if re.search(rf"^class {owner}\b", source, re.MULTILINE)]
        assert any(f"    def {method}(" in source for source in declared), f"{owner}.{method}"
    choices_made = dict(re.findall(r"#.*?\b(\w+)=(\w+)", block))
    assert len(choices_made) >= 5
    rws = flat(OmegaConf.to_container(unchecked("sampler=rws").sampler, resolve=True))
    for key, value in choices_made.items():
        assert value in (rws.get(f"guidance.{key}"), rws.get(key)), key


def test_defaults_are_those_of_conf(settings: dict[str, dict[str, Any]]) -> None:
    stated: dict[str, Any] = {}
    for keys, default, why in table("key", "default", "why"):
        values = [yaml.safe_load(value) for value in quoted(default)]
        values = values * len(quoted(keys)) if len(values) == 1 else values
        stated |= dict(zip(quoted(keys), values, strict=True))
        assert why
    composed = settings[""]
    assert {key: composed[key] for key in stated} == stated
    groups = ("model.", "reward.", "sampler.", "benchmark.", "runtime.cache")
    expected = {key for key in composed if key.startswith(groups) and key.rpartition(".")[2] not in DECIDE_NO_TOKEN}
    elsewhere = {key for key in expected if key.startswith("sampler.guidance.")} - {"sampler.guidance.kind"}
    assert set(stated) == {"seed", *expected} - elsewhere  # those are in the table of options


def test_every_sampler_has_a_section() -> None:
    names = [name for method in methods() for name in method.samplers]
    assert sorted(names) == sorted(set(choices("sampler")) - {"rws"})
    assert re.search(r"^## \d+\. Reward-Weighted Sampling$", TEXT, re.MULTILINE)
    for method in methods():
        assert list(method.bullets) == ["Paper", "Rule", "Settings", "Differences", "Test"], method.samplers
        assert "::" in method.bullets["Test"], method.samplers
        assert re.fullmatch(r"none|D\d+(, D\d+)*", method.bullets["Differences"]), method.samplers
    assert {"reward=constant", "reward=shuffled", "reward=verifier"} <= set(CODE)


def test_settings_of_samplers_are_what_they_set(settings: dict[str, dict[str, Any]]) -> None:
    stated: dict[str, dict[str, Any]] = {name: {} for name in choices("sampler")}
    for method in methods():
        samplers = method.samplers
        for code in quoted(method.bullets["Settings"]):
            if code in stated:  # what follows is this sampler's alone
                samplers = [code]
                continue
            key, _, value = code.partition("=")
            for name in samplers:
                stated[name][key] = yaml.safe_load(value)
    for option, default, *_ in table("option", "default", "values", "why this default"):
        stated["rws"][f"guidance.{quoted(option)[0]}"] = yaml.safe_load(quoted(default)[0])
    of_rws = {key: value for key, value in settings["rws"].items() if key.startswith("sampler.guidance.")}
    for name in choices("sampler"):
        base = settings["confidence"]
        if name != "rws" and settings[name]["sampler.guidance.kind"] == "rws":
            base = base | of_rws  # what rws sets is in its own table
        changed = {
            key.removeprefix("sampler."): value
            for key, value in settings[name].items()
            if key.startswith("sampler.") and base.get(key) != value
        }
        changed = {k: v for k, v in changed.items() if k not in ("name", "guidance.run") and not k.endswith(".kind")}
        assert stated[name] == changed, name


def test_papers_are_those_of_the_configuration_and_its_parts(settings: dict[str, dict[str, Any]]) -> None:
    for method in methods():
        stated = set(ARXIV.findall(method.bullets["Paper"]))
        assert stated or method.bullets["Paper"] == "none", method.samplers
        for name in method.samplers:
            kinds = {"order": settings[name]["sampler.order"]}
            kinds |= {r: settings[name][f"sampler.{r}.kind"] for r in ("schedule", "guidance", "remasking", "search")}
            titles = " ".join(registry.available(role)[kind].title for role, kind in kinds.items())
            described = set(ARXIV.findall(choices("sampler")[name]))
            assert described <= stated <= described | set(ARXIV.findall(titles)), name


def test_every_option_of_guidance_is_named() -> None:
    guidance = registry.available("guidance")
    options = {name: setting for name, setting in guidance["rws"].settings.items() if name != "kind"}
    rows = {quoted(row[0])[0]: quoted(row[2]) for row in table("option", "default", "values", "why this default")}
    assert set(rows) == set(options)
    for name, values in rows.items():
        assert set(options[name].allowed.get("choices", ())) == set(values), name
        assert re.search(rf"^- `{name}`: ", TEXT, re.MULTILINE), name
    assert set(guidance["recorded_scale"].settings["how"].allowed["choices"]) <= set(CODE)


def test_every_measure_is_named() -> None:
    order = order_statistics([0, 1], [0, 1], 2)
    assert set(order) == {key for keys, *_ in table("key", "formula", "range") for key in quoted(keys)}
    assert {"scale", "temperature", "reversals", "changed_selections", "reversals_by_progress"} <= set(CODE)
    assert {"accuracy", "partial", "pass_at", "reward", "order_with_eos", "failed"} <= set(CODE)
    measured = {f"{m.name}.{key}" for m in registry.available("metric").values() for key in m.facts["measures"]}
    stated = {key for keys, *_ in table("key", "formula", "None for") for key in quoted(keys)}
    assert stated <= measured
    assert {key.partition(".")[0] for key in measured} == {key.partition(".")[0] for key in stated}


def test_every_field_of_cost_is_named() -> None:
    tree = ast.parse((ROOT / "rws_cli/decoding/record.py").read_text())
    cost = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Cost")
    fields = {node.target.id for node in cost.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert fields <= {key for row in table("field", "counts") for key in quoted(" ".join(row))}


def test_versions_and_lengths_of_benchmarks() -> None:
    stated = {}
    for names, version, lengths, *_ in table(
        "benchmark", "version", "gen_length", "extracted", "correct if", "partial credit"
    ):
        for name, length in zip(quoted(names), lengths.split(","), strict=True):
            stated[name] = (int(version), int(length))
    actual = {}
    for name in choices("benchmark"):
        composed = yaml.safe_load((CONF / "benchmark" / f"{name}.yaml").read_text())
        actual[name] = (registry.available("benchmark")[composed["kind"]].facts["version"], composed["gen_length"])
    assert stated == actual


def test_constants_are_those_of_the_code() -> None:
    section = TEXT.partition("Constants that are not options: ")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+) = ([^`]+)`\s+\(`([\w./]+)`\)", section)
    assert len(named) == 11
    for name, value, file in named:
        tree = ast.parse((ROOT / "rws_cli" / file).read_text())
        assigned = next(
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [name]
        )
        assert ast.literal_eval(assigned) == ast.literal_eval(" ".join(value.split())), name
    assert f"{RESAMPLES - 1:,} resamples" in TEXT


def test_deviations_are_numbered_and_pointed_at() -> None:
    listed = re.findall(r"^- \*\*D(\d+)\*\*", TEXT, re.MULTILINE)
    assert listed == [str(n + 1) for n in range(len(listed))]
    assert set(re.findall(r"\bD(\d+)\b", TEXT)) == set(listed)
