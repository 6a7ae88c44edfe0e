"""What a choice of a group is, and what can be set of it: `rws list GROUP NAME`.

All of it is read where it acts: descriptions and defaults in conf/, as Hydra composes them; types, ranges and meanings
in schema.py. So help cannot say what is not so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rws_cli import parts, registry
from rws_cli.config.catalog import CONF, PACKAGE, choices
from rws_cli.config.check import PART_REWARDS
from rws_cli.config.composing import unchecked
from rws_cli.config.keys import PARTS
from rws_cli.config.schema import GUIDANCES, JUDGES, ORDERS, REVIEWS, REWARDS, SCHEDULES, SEARCHES, Config
from rws_cli.config.typed import type_words
from rws_cli.errors import UsageError, nearest
from rws_cli.report.terminal import wide_console

FREE = ("method", "experiment")
"""Groups whose choices set whatever they like; only that is shown of them."""
AT = {"guidance": "sampler.guidance", "search": "sampler.search"}
"""Where a group's settings stand, if not under its own name."""
KINDS: dict[str, tuple[dict[str, type], str | None]] = {
    "reward": (REWARDS, "reward"), "part": (PART_REWARDS, "reward"), "parts": (PART_REWARDS, "reward"),
    "schedule": (SCHEDULES, "schedule"), "judge": (JUDGES, None),
    "guidance": (GUIDANCES, None), "review": (REVIEWS, None), "search": (SEARCHES, None),
}  # fmt: skip
"""Settings whose schema depends on their kind, with the role of kinds that have a file of their own; those of "parts" are
rewards by names of the user's."""
MEANINGS = {"name": "what tables and run folders call it", "kind": "what it is, which decides what else can be set"}
NARROW = 100
"""A terminal of fewer columns shows a setting in two lines."""
BOUNDS = {"min": "≥", "above": ">", "max": "≤"}
UNSET, ABSENT = "must be set", object()

ELSEWHERE = {
    "sampler.guidance": {
        "temperature": "decoding/guidance", "rws": "decoding/guidance", "replay": "decoding/replay",
        "entrgi": "rewards/gradient",
    },
    "sampler.schedule": dict.fromkeys(SCHEDULES, "decoding/schedules"),
    "sampler.review": {"r3": "decoding/review"},
    "sampler.search": dict.fromkeys(SEARCHES, "decoding/search"),
    "reward": dict.fromkeys(("verifier", "shuffled", "constant"), "rewards/controls"),
    "judge": {"reward": "judges/scored", "causal": "judges/local"},
}  # fmt: skip
"""The file that implements a kind, from rws_cli/, where it has none of its own name in its folder."""
FOLDERS = {"model": "models", "reward": "rewards", "benchmark": "benchmarks", "judge": "judges"}
BACKENDS = {"processes": "workers/processes", "ray": "workers/cluster", "tensor_parallel": "workers/ranks"}


@dataclass(frozen=True)
class Row:
    """A setting. key: as it is typed; own: whether the choice sets it otherwise than the base of its group."""

    key: str
    default: str
    may_be: str
    meaning: str
    own: bool


@dataclass(frozen=True)
class Choice:
    """facts: label and text, e.g. its files and papers. base: the file that its rows are compared with, if any."""

    description: str
    facts: list[tuple[str, str]]
    base: str | None
    rows: list[Row]
    example: str


def print_choice(group: str, name: str) -> None:
    """All of a choice on the terminal. Raises UsageError if there is none of that name."""
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
    if choice.base:
        console.print(f"\n* not in {choice.base}, or another value there", style="dim")
    console.print(f"\n{choice.example}", soft_wrap=True)


def _table(rows: list[Row], narrow: bool) -> Table:
    """A column each for setting, default, what it may be and its meaning; two over each other where it is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = ("setting\n  default", "may be\nmeaning") if narrow else ("setting", "default", "may be", "meaning")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head == "setting")
    for row in rows:
        default = f"{row.default} *" if row.own else row.default
        cells = (row.key, default, row.may_be, row.meaning)
        if narrow:
            cells = (f"{row.key}\n  {default}", f"{row.may_be}\n{row.meaning}")  # type: ignore[assignment]
        table.add_row(*cells)
    return table


def describe(group: str, name: str) -> Choice:
    """All of a choice of a group. Raises UsageError if there is none of that name."""
    found = choices(group)
    if name not in found:
        raise UsageError(f"{name} is no {group}: choose from {', '.join(found)}{nearest(name, list(found)) or '.'}")
    file = CONF / group / f"{name}.yaml"
    here, base = _composed(_overrides(group, name)), _base(file)
    facts = [("paper", f"arXiv {i}, https://arxiv.org/abs/{i}") for i in re.findall(r"\b\d{4}\.\d{5}\b", found[name])]
    facts.append(("conf", file.relative_to(CONF).as_posix()))
    if group in FREE:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        set_here = {key for key in content if key in {f.name for f in fields(Config)}}
        keys = [key for top in set_here for key in _leaves(content[top], top)]
        rows = [row for row in _settings(Config, here, None) if row.key in keys]
        facts += _chosen(content)
    else:
        facts += [("code", code) for code in _code(group, here.values)]
        compared = _raw(_overrides(group, base))[1] if base else None
        at = AT.get(group, group)
        rows = list(_setting(at, get_type_hints(Config).get(group, Any), {}, here, compared))
    example = _example(group, name, file, here.values)
    unset = [f" {row.key}=…" for row in rows if row.default == UNSET]
    return Choice(found[name], facts, f"{group}/{base}.yaml" if base else None, rows, example + "".join(unset))


# --- what Hydra makes of a choice ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Composed:
    """A configuration before it is checked: interpolations resolved (values), and as they are written (raw)."""

    values: Any
    raw: Any


@lru_cache
def _raw(overrides: tuple[str, ...]) -> tuple[DictConfig, Any]:
    composed = unchecked(*overrides)
    return composed, OmegaConf.to_container(composed)


def _composed(overrides: tuple[str, ...]) -> _Composed:
    composed, raw = _raw(overrides)
    return _Composed(OmegaConf.to_container(composed, resolve=True), raw)


def _overrides(group: str, name: str) -> tuple[str, ...]:
    """What chooses it; a guidance goes over a sampler that has none of its own."""
    if group == "metric":
        return (f"metric=[{name}]",)
    if group == "guidance":
        return "sampler=threshold", f"guidance={name}"
    return (f"{'+' if group in FREE else ''}{group}={name}",)


def _base(file: Path) -> str | None:
    """The file of the same group that a choice's file starts from, or that this one starts from, and so on."""
    base = None
    while True:
        first = ((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults") or [None])[0]
        if not isinstance(first, str) or first == "_self_":
            return base
        base, file = first, file.with_name(f"{first}.yaml")


def _at(tree: Any, key: str) -> Any:
    """What stands at a dotted key; ABSENT if nothing does."""
    for part in key.split("."):
        tree = tree.get(part, ABSENT) if isinstance(tree, dict) else ABSENT
    return tree


def _leaves(node: Any, at: str) -> list[str]:
    if not isinstance(node, dict) or at == "table.published":
        return [at]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{at}.{key}")]


# --- rows, by the schema ------------------------------------------------------------------------------------------


def _settings(cls: type, here: _Composed, base: Any, at: str = "", kinds: tuple[str, ...] = ()) -> Iterator[Row]:
    """A row for each setting of a schema at a key and of those below it; kinds: what its own kind may be."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        about = {"meaning": MEANINGS.get(f.name, "")} | f.metadata
        if f.name == "kind" and "choices" not in about:
            about["choices"] = kinds
        if _at(here.values, key := f"{at}.{f.name}".lstrip(".")) is not ABSENT:
            yield from _setting(key, hints[f.name], about, here, base)
        elif f.default is not MISSING or f.default_factory is not MISSING:
            default = f.default if f.default_factory is MISSING else f.default_factory()
            yield Row(f"+{key}", _written(default), _may_be(hints[f.name], about), about["meaning"], False)


def _part(role: str, source: registry.Source, here: _Composed, base: Any, at: str) -> Iterator[Row]:
    """A row for each setting of a part, as its source has them."""
    kind: dict[str, Any] = {"meaning": MEANINGS["kind"], "choices": tuple(registry.find(role))}
    yield from _setting(f"{at}.kind", "str", kind, here, base)
    for setting in source.settings.values():
        about = {"meaning": setting.meaning} | setting.allowed
        yield from _setting(f"{at}.{setting.name}", setting.type, about, here, base)


def _setting(key: str, hint: Any, about: dict[str, Any], here: _Composed, base: Any) -> Iterator[Row]:
    """A row for the setting at a key; or for each below it, if it is a group of settings."""
    value, raw = _at(here.values, key), _at(here.raw, key)
    if isinstance(value, dict):
        names = key.split(".")
        kinds, role = KINDS.get("parts" if names[-2:-1] == ["parts"] else names[-1], ({}, None))
        kind = value.get("kind", "")
        part_role = "metric" if names[:-1] == ["metric"] else PARTS.get(key)
        if part_role and (source := registry.find(part_role).get(kind)):
            yield from _part(part_role, source, here, base, key)
            return
        own = parts.settings_of(role, kind) if role else None
        known: list[Any] = [kinds.get(kind), own, *filter(is_dataclass, (hint, *get_args(hint)))]
        if get_origin(hint) is not dict and (cls := next(filter(None, known), None)):
            yield from _settings(cls, here, base, key, (*kinds, *(parts.own(role) if role else ())))
            return
        if value and get_origin(hint) is dict and get_origin(get_args(hint)[1]) is not dict:
            for name in value:
                yield from _setting(f"{key}.{name}", get_args(hint)[1], about, here, base)
            return
    default = _written(value)
    if isinstance(raw, str) and "${" in raw:
        default += f" ({re.sub(r'[${}]', '', raw)})"
    differs = base is not None and _at(base, key) != raw
    yield Row(key, default, _may_be(hint, about), about["meaning"], differs)


def _written(value: Any) -> str:
    """A value as it is typed."""
    if value == "???":
        return UNSET
    if isinstance(value, str) and value and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)


def _may_be(hint: Any, about: dict[str, Any]) -> str:
    """Type, choices and range, in words."""
    words = "anything" if hint is Any else type_words(hint)
    if get_origin(hint) is dict:
        words = "settings"
    elif any(map(is_dataclass, get_args(hint))):
        words = "settings or null"
    elif get_origin(hint) is list:
        words = "a list"
    null = " or null" if words.endswith(" or null") else ""
    bounds = [f"{sign} {about[name]:g}" for name, sign in BOUNDS.items() if name in about]
    own = parts.own(about["role"]) if "role" in about else []
    what = " · ".join([*about["choices"], *own]) if about.get("choices") else words.removesuffix(null)
    return what + " " * bool(bounds) + ", ".join(bounds) + null


# --- what else is said of a choice --------------------------------------------------------------------------------


def _code(group: str, values: Any) -> list[str]:
    """The Python files in which a choice is implemented."""
    if group == "metric":
        return _files(f"metrics/{metric['kind']}" for metric in values["metric"].values())
    if group == "runtime":
        return _files([BACKENDS.get(values["runtime"]["backend"], "workers/__init__")])
    if group in FOLDERS:
        kind = values[group]["kind"]
        return _files([ELSEWHERE.get(group, {}).get(kind, f"{FOLDERS[group]}/{kind}")])
    sampler = values["sampler"]
    asked = ("guidance", "schedule", "review", "search") if group == "sampler" else (group,)
    kinds = {f"sampler.{part}": sampler[part]["kind"] for part in asked}
    found = [ELSEWHERE[at].get(kind, f"decoding/{kind}") for at, kind in kinds.items() if kind not in ("none", "fixed")]
    order = "decoding/orders" if sampler["order"] in ORDERS else f"decoding/{sampler['order']}"
    return _files(found if found and sampler["order"] == "confidence" else [order, *found])


def _files(names: Iterable[str]) -> list[str]:
    return [f"rws_cli/{name}.py" for name in dict.fromkeys(names) if (PACKAGE / f"{name}.py").is_file()]


def _chosen(content: dict[str, Any]) -> list[tuple[str, str]]:
    """What a file of a method or an experiment chooses, and what it sweeps over."""
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
    if group == "benchmark" and registry.find(group)[values[group]["kind"]].facts["runs_programs"]:
        words.append("benchmark.allow_code_execution=true")
    if group == "benchmark" and values["benchmark"].get("hub", "") is None and values["benchmark"]["path"] is None:
        words.append("benchmark.path=…")
    return " ".join(words)
