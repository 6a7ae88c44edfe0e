"""Describe a choice of a group and all its settings: `rws list GROUP NAME`.

Descriptions and values come from conf/, as Hydra composes it; types, ranges and meanings from the schema and the source
of parts, without importing them. Nothing is written twice, so help and behavior cannot differ.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.table import Table

from rws_cli import registry
from rws_cli.analysis.measures import of_metric
from rws_cli.config.catalog import CONF, PACKAGE, choices, files
from rws_cli.config.check import environment_hidden
from rws_cli.config.composing import unchecked
from rws_cli.config.keys import PARTS, group_of, kinds_of, settings_of
from rws_cli.config.renamed import renamed_choice
from rws_cli.config.schema import Config, Sampler
from rws_cli.config.typed import type_words
from rws_cli.errors import UsageError, choose_from
from rws_cli.registry import Setting
from rws_cli.report.terminal import wide_console

FREE = ("method", "experiment")
"""Groups whose choices may change any setting; only those that they change are shown."""
GROUP_KEYS = {"guidance": "sampler.guidance", "search": "sampler.search"}
"""Group → the key of its settings, where that is not the group's name."""
MEANINGS = {"name": "the name in tables and run folders", "kind": "the implementation"}
NARROW = 100
"""On a terminal with fewer columns, a setting takes two lines."""
BOUNDS = {"min": "≥", "above": ">", "max": "≤"}
UNSET, ABSENT = "must be set", object()


@dataclass(frozen=True)
class Row:
    """A setting. key: as it is typed; changed: whether the choice sets it to another value than its base, or the default."""

    key: str
    default: str
    values: str
    meaning: str
    changed: bool


@dataclass(frozen=True)
class Choice:
    """facts: labels and texts, e.g. its files and papers. base: the file that its rows are compared with; None: defaults."""

    description: str
    facts: list[tuple[str, str]]
    base: str | None
    rows: list[Row]
    example: str


def print_choice(group: str, name: str) -> None:
    """Print a choice on the terminal. Raises UsageError for an unknown name."""
    choice, console = describe(group, name), wide_console()
    console.print(choice.description, style="bold")
    about = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    about.add_column(style="dim")
    about.add_column(overflow="fold")
    for label, text in choice.facts:
        about.add_row(label, text)
    console.print(about)
    if choice.rows:
        console.print("", _table(choice.rows, narrow=console.width < NARROW))
    if any(row.changed for row in choice.rows):
        compared = f"differs from {choice.base}" if choice.base else "differs from the default"
        console.print(f"\n* {compared}", style="dim")
    console.print(f"\n{choice.example}", soft_wrap=True)


def _table(rows: list[Row], narrow: bool) -> Table:
    """A table with columns for setting, default, allowed values and meaning; two stacked columns if narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = ("setting\n  default", "values\nmeaning") if narrow else ("setting", "default", "values", "meaning")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head == "setting")
    for row in rows:
        default = f"{row.default} *" if row.changed else row.default
        cells = (row.key, default, row.values, row.meaning)
        if narrow:
            cells = (f"{row.key}\n  {default}", f"{row.values}\n{row.meaning}")  # type: ignore[assignment]
        table.add_row(*cells)
    return table


def describe(group: str, name: str) -> Choice:
    """The description of a choice of a group. Raises UsageError for an unknown name."""
    name = renamed_choice(f"{group}/{name}").removeprefix(f"{group}/")
    descriptions = choices(group)
    if name not in descriptions:
        raise UsageError(f"{group}={name} is not known: {choose_from(name, descriptions)}")
    file, source = files(group)[name]
    here, base = _composed(_overrides(group, name)), _base(group, file)
    facts = [
        ("paper", f"arXiv {i}, https://arxiv.org/abs/{i}") for i in re.findall(r"\b\d{4}\.\d{5}\b", descriptions[name])
    ]
    facts.append(("conf", f"{group}/{name}.yaml" if source == "rws" else str(file)))
    if group in FREE:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        tops = [setting for setting in settings_of(Config) if setting.name in content]
        keys = {key for setting in tops for key in _leaves(content[setting.name], setting.name)}
        rows = [row for top in tops for row in _rows(top, top.name, here, here.raw) if row.key in keys]
        facts += _chosen(content)
    else:
        key = GROUP_KEYS.get(group, group)
        (top,) = (s for s in settings_of(Sampler if group in GROUP_KEYS else Config) if s.name == group)
        facts += [("code", code) for code in _code(top, key, here)]
        facts += _measures(here.values) if group == "metric" else []
        rows = list(_rows(top, key, here, _composed(_overrides(group, base)).raw if base else None))
    example = _example(group, name, file, here.values)
    unset = [f" {row.key}=…" for row in rows if row.default == UNSET]
    return Choice(descriptions[name], facts, f"{group}/{base}.yaml" if base else None, rows, example + "".join(unset))


# --- a choice, composed by Hydra ----------------------------------------------------------------------------------


class _Composed:
    """A configuration before it is checked, with interpolations resolved (values) and as written (raw)."""

    @environment_hidden()
    def __init__(self, overrides: tuple[str, ...]) -> None:
        composed = unchecked(*overrides)
        self.values: Any = OmegaConf.to_container(composed, resolve=True)
        self.raw: Any = OmegaConf.to_container(composed)


_composed = lru_cache(_Composed)


def _overrides(group: str, name: str) -> tuple[str, ...]:
    """The overrides that choose it; a guidance is added to a sampler without one."""
    if group == "metric":
        return (f"metric=[{name}]",)
    if group == "guidance":
        return "sampler=threshold", f"guidance={name}"
    return (f"{'+' if group in FREE else ''}{group}={name}",)


def _base(group: str, file: Path) -> str | None:
    """The file of the same group that a choice's file ultimately inherits from; None: it inherits from none."""
    base = None
    while True:
        first = ((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults") or [None])[0]
        if not isinstance(first, str) or first == "_self_":
            return base
        near = file.with_name(f"{first}.yaml")
        base, file = first, near if near.exists() else CONF / group / near.name


def _value_at(tree: Any, key: str) -> Any:
    """The value at a dotted key; ABSENT if there is none."""
    for part in key.split("."):
        tree = tree.get(part, ABSENT) if isinstance(tree, dict) else ABSENT
    return tree


def _leaves(node: Any, key: str) -> list[str]:
    if not isinstance(node, dict) or key == "table.published":
        return [key]
    return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}")]


# --- rows ---------------------------------------------------------------------------------------------------------


def _rows(setting: Setting, key: str, here: _Composed, base: Any) -> Iterator[Row]:
    """A row for the setting at a key, or for each setting below it if it is a group."""
    value, raw = _value_at(here.values, key), _value_at(here.raw, key)
    meaning = setting.meaning or MEANINGS.get(setting.name, "")
    if value is ABSENT:
        if setting.default is not MISSING:
            yield Row(f"+{key}", _written(setting.default), _allowed(setting), meaning, False)
        return
    if isinstance(value, dict) and (inner := _inside(setting, key, value)) is not None:
        for each in inner:
            yield from _rows(each, f"{key}.{each.name}", here, base)
        return
    default = _written(value)
    if isinstance(raw, str) and "${" in raw:
        default += f" ({re.sub(r'[${}]', '', raw)})"
    changed = setting.name not in MEANINGS and setting.default not in (MISSING, raw)
    if base is not None:
        changed = _value_at(base, key) != raw
    yield Row(key, default, _allowed(setting), meaning, changed)


def _inside(setting: Setting, key: str, value: dict[str, Any]) -> list[Setting] | None:
    """The settings below a key if it is a group: a part, several parts by name, or a group of the schema; else None."""
    if (role := _role(setting, key)) and (kinds := kinds_of(role)):
        kind = value.get("kind", setting.name)
        if kind not in kinds:
            return [replace(setting, name=name) for name in value]
        what = setting.meaning.partition(";")[0] or MEANINGS["kind"]
        meaning = f"{what}; determines the other settings here"
        kind_setting = replace(kinds[kind][0], meaning=meaning, allowed={"choices": tuple(kinds)})
        return [kind_setting if s.name == "kind" else s for s in kinds[kind]]
    if inner := group_of(setting):
        order = str(value.get("order"))  # its settings stand at sampler.NAME
        has_settings = isinstance(value.get(order), dict) and order in registry.available("order")
        return [*inner, Setting(order, "Any", "", MISSING, {"role": "order"})] if has_settings else inner
    of_each = re.fullmatch(r"dict\[str, (?!dict)(.*)\]", setting.type)
    return [Setting(name, of_each[1], setting.meaning, MISSING, {}) for name in value] if of_each and value else None


def _role(setting: Setting, key: str) -> str | None:
    return setting.allowed.get("role") or PARTS.get(key)


def _written(value: Any) -> str:
    """A value as a user types it."""
    if value == "???":
        return UNSET
    if isinstance(value, str) and value and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)


def _allowed(setting: Setting) -> str:
    """A setting's type, choices and range, in words."""
    allowed, kind = setting.allowed, re.match(r"\w+", setting.type)
    words = {"Any": "anything", "dict": "settings", "list": "a list"}.get(kind[0] if kind else "", "")
    if not words:
        words = type_words(setting.type) if group_of(setting) is None else "settings or null"
    null = " or null" if words.endswith(" or null") else ""
    bounds = [f"{sign} {allowed[name]:g}" for name, sign in BOUNDS.items() if name in allowed]
    names = dict.fromkeys([*allowed.get("choices", ()), *(kinds_of(allowed["role"]) if "role" in allowed else ())])
    return (" · ".join(names) or words.removesuffix(null)) + " " * bool(bounds) + ", ".join(bounds) + null


# --- facts about a choice and an example --------------------------------------------------------------------------


def _code(top: Setting, top_key: str, here: _Composed) -> list[str]:
    """The Python files of the parts that a choice names, with their source if that is not rws."""
    value = _value_at(here.values, top_key)
    settings = [(top, top_key), *((inner, f"{top_key}.{inner.name}") for inner in _inside(top, top_key, value) or ())]
    code = []
    for setting, key in settings:
        named, role = _value_at(here.values, key), _role(setting, key)
        kind = named.get("kind") if isinstance(named, dict) else named
        source = registry.available(role).get(str(kind)) if role and kind != "none" else None
        if source and source.root.path == PACKAGE:
            code.append(f"rws_cli/{source.file.relative_to(PACKAGE).as_posix()}")
        elif source:
            code.append(f"{source.file} (from {source.root.source})")
    return list(dict.fromkeys(code))


def _measures(values: Any) -> list[tuple[str, str]]:
    """The measures of metrics, by their key in records."""
    return [
        ("measures", f"{measure.name}: {measure.description}")
        for name, metric in values["metric"].items()
        for measure in of_metric(name, metric["kind"])
    ]


def _chosen(content: dict[str, Any]) -> list[tuple[str, str]]:
    """The choices that a method's or experiment's file makes, and what it sweeps over."""
    pairs = [pair for entry in content.get("defaults", []) if isinstance(entry, dict) for pair in entry.items()]
    chosen = [f"{key.removeprefix('override /')}={_typed(value)}" for key, value in pairs]
    params = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    swept = [[" ".join(f"{key}={value}" for key, value in params.items())]] if params else []
    facts = [("sets", " ".join(chosen))] if chosen else []
    for number, lines in enumerate([*swept, *content.get("sweeps", [])]):
        facts += [("or" if n else "times" if number else "sweeps", line) for n, line in enumerate(lines)]
    return facts


def _typed(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def _example(group: str, name: str, file: Path, values: Any) -> str:
    """A command that uses the choice."""
    written = re.search(r"^# (rws run .*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    if group in FREE and written:
        return written.group(1)
    if group in ("metric", "judge"):
        return {
            "metric": f"rws measure outputs/sudoku/tiny-rws metric=[{name}]",
            "judge": f"rws judge outputs/multirun/latest judge={name}",
        }[group]
    words = ["rws run"]
    if values["reward"]["kind"] == "none" and group == "reward":
        words.append("sampler=confidence")
    words += _overrides(group, name)
    if group == "search":
        words.append("sampler.temperature=1")
    if values["reward"].get("needs_remote_code"):
        words.append(f"trust_remote_code=true pins.{values['reward']['name']}=…")
    if group == "benchmark" and "allow_code_execution" in values["benchmark"]:
        words.append("benchmark.allow_code_execution=true")
    if group == "benchmark" and values["benchmark"].get("hub", "") is None and values["benchmark"]["path"] is None:
        words.append("benchmark.path=…")
    return " ".join(words)
