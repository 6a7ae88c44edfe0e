"""Old names and their replacements. Nothing else knows an old name.

Records are renamed when they are read, if their run's schema number is below that of the change. An old key or choice on
a command line or in a configuration file is replaced, with one line of advice.
"""

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any

from rws_cli import registry
from rws_cli.config.keys import PARTS
from rws_cli.files import warn

SCHEMA = 2
"""The version of the records that this rws writes (`schema` in manifest.json)."""


@dataclass(frozen=True)
class Renamed:
    """A renamed thing. kind: what it is; since: the first schema with the new name.

    A setting is "key", or "key=value" if only that value is renamed. A field of a record is a dotted path; `[]` stands
    for each entry of a list.
    """

    kind: str
    old: str
    new: str
    since: int = 2


def _each(kinds: str, *pairs: tuple[str, str]) -> list[Renamed]:
    return [Renamed(kind, old, new) for kind in kinds.split() for old, new in pairs]


TABLE = [
    *_each("command", ("mark", "grade")),
    *_each("figure", ("map", "order_heatmap"), ("course", "by_step")),
    *_each("column", ("other_sets", "changed_selections"), ("same_answers", "same_completions")),
    *_each("column", ("perplexity.answer", "perplexity.completion")),
    *_each(
        "setting",
        ("sampler=temperature", "sampler=constant_scale"),
        ("sampler.name=temperature", "sampler.name=constant_scale"),
        ("guidance=temperature", "guidance=constant_scale"),
        ("sampler.guidance.kind=temperature", "sampler.guidance.kind=constant_scale"),
        ("sampler=replay", "sampler=recorded_scale"),
        ("sampler.name=replay", "sampler.name=recorded_scale"),
        ("sampler.guidance.kind=replay", "sampler.guidance.kind=recorded_scale"),
        ("sampler.review", "sampler.remasking"),
        ("sampler.schedule.fill", "sampler.schedule.share"),
        ("runtime.backend=here", "runtime.backend=local"),
        ("benchmark.answers", "benchmark.completions"),
        ("draw", "plot"),
        *(
            (f"{at}.{old}", f"{at}.{new}")
            for at in ("reward", "judge.reward")
            for old, new in (
                ("parts=step", "unit=step"),
                ("parts=block", "unit=block"),
                ("parts", "components"),
                ("part", "component"),
            )
        ),
    ),
    *_each("samples.jsonl", ("mark", "grade"), ("marks_before", "grades_before"), ("answer", "completion")),
    *_each("samples.jsonl", ("grades_before[].mark", "grades_before[].grade"), ("masked_again", "remasked")),
    *_each(
        "samples.jsonl metrics.json",
        ("steering", "guidance"),
        ("guidance.other_sets", "guidance.changed_selections"),
        ("guidance.reversals_by_fill", "guidance.reversals_by_progress"),
        ("cost.reward_hits", "cost.reward_cache_hits"),
        ("measures.*.answer", "measures.*.completion"),
    ),
    *_each("trace.parquet", ("other_set", "changed_selection"), ("masked", "remasked_at")),
    *_each(
        "manifest.json",
        ("marked", "graded"),
        ("graded[].marker", "graded[].grader"),
        ("graded[].marker_before", "graded[].grader_before"),
        ("sources.replayed", "sources.recorded_scales"),
    ),
    *_each("verdicts.jsonl", ("said", "reply"), ("answers", "completions")),
    *_each(
        "normalization.json",
        ("by_fill", "by_progress"),
        ("decodings_by_fill", "decodings_by_progress"),
        ("masked_by_fill", "masked_by_progress"),
    ),
]

METRIC_KEY = re.compile(r"^\+?(metric\.\w+\.(?:module|arguments)\b)")
"""Settings that every metric had before metrics became parts."""


def _table(kind: str) -> dict[str, str]:
    return {row.old: row.new for row in TABLE if row.kind == kind}


@cache
def advise(old: str, new: str) -> None:
    """Print the new name to standard error, once per process."""
    warn(f"{old} has been renamed: use {new}")


def renamed(kind: str, name: str) -> str:
    """The current name for a command, figure or column that the user typed."""
    if (new := _table(kind).get(name)) is not None:
        advise(name, new)
        return new
    return name


# --- command lines and configuration files ------------------------------------------------------------------------


def renamed_override(override: str, advice: Callable[[str, str], None] = advise) -> str:
    """A Hydra override with current names: `sampler=temperature,random`, `+sampler.review.kind=…`."""
    prefix, key, equals, value = re.fullmatch(r"([+~]*)([^=]*)(=?)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
    if METRIC_KEY.match(override):
        return METRIC_KEY.sub(r"++\1", override)
    group, package, path = key.partition("@")
    values = [_renamed_value(key, each) for each in value.split(",")]
    new_key = f"{group}@{_renamed_key(path)}" if package else next((new for new, _ in values), _renamed_key(key))
    new_value = ",".join(each for _, each in values)
    new = f"{prefix}{new_key}{equals}{new_value}"
    if new != override:
        advice(override.lstrip("+~"), new.lstrip("+~"))
    return new


def _is_setting(key: str, kind: Any = MISSING) -> bool:
    """Whether a part, perhaps the user's own, has a setting of this name. kind: the only part to consider, if given."""
    at, _, name = key.rpartition(".")
    parts = registry.available(PARTS[at]) if at in PARTS else {}
    return any(name in part.settings for each, part in parts.items() if kind in (MISSING, each)) and name != "kind"


def _renamed_value(key: str, value: str) -> tuple[str, str]:
    """A key and a value with current names."""
    new = None if _is_setting(key) else _table("setting").get(f"{key}={value.strip()}")
    new_key, _, new_value = new.partition("=") if new else (_renamed_key(key), "", value)
    return new_key, new_value


def _renamed_key(key: str) -> str:
    for old, new in _table("setting").items():
        if "=" not in old and (key == old or key.startswith(f"{old}.")) and not _is_setting(old):
            return new + key.removeprefix(old)
    return key


def renamed_choice(path: str) -> str:
    """The path of a configuration file, GROUP/NAME, with its current name."""
    group, slash, name = path.rpartition("/")
    new = _table("setting").get(f"{group}={name}")
    if new is None:
        return path
    advise(f"{group}={name}", new)
    return f"{group}{slash}{new.partition('=')[2]}"


def rename_settings(config: Any, advice: Callable[[str, str], None] = lambda old, new: None) -> None:
    """Rename the settings of a configuration (nested dictionaries) in place."""
    if not isinstance(config, dict):
        return
    for old, new in _table("setting").items():
        key, equals, value = old.partition("=")
        new_key, _, new_value = new.partition("=")
        if (current := _get(config, key)) is MISSING or (equals and current != value):
            continue
        if _is_setting(key, _get(config, f"{key.rpartition('.')[0]}.kind")):
            continue
        advice(old, new)
        _remove(config, key)
        _set(config, new_key, new_value if equals else current)
    for name, metric in (config.get("metric") or {}).items() if isinstance(config.get("metric"), dict) else ():
        config["metric"][name] = metric_settings(metric)
    table, columns = config.get("table"), _table("column")
    if isinstance(table, dict):
        if isinstance(table.get("columns"), list):
            table["columns"] = [columns.get(name, name) if isinstance(name, str) else name for name in table["columns"]]
        for row in (table.get("published") or {}).values() if isinstance(table.get("published"), dict) else ():
            for old in [name for name in row if name in columns] if isinstance(row, dict) else ():
                row[columns[old]] = row.pop(old)


def metric_settings(values: Any) -> Any:
    """A metric's settings; those from before metrics were parts (module, revision, arguments) are converted."""
    if not isinstance(values, dict) or values.get("kind") == "evaluate":
        return values
    module, arguments = values.get("module"), values.get("arguments") or {}
    if module is None:
        return {key: value for key, value in values.items() if key != "arguments"} | arguments
    if module in registry.available("metric"):
        return {"kind": module} | arguments
    return {"kind": "evaluate", "module": module, "revision": values.get("revision"), "arguments": arguments}


# --- records ------------------------------------------------------------------------------------------------------


def rename_record(file: str, record: Any, schema: int) -> Any:
    """A record, or a line of one, from a file of this name and of this schema: renamed in place, and returned."""
    if isinstance(record, dict):
        for row in TABLE:
            if row.kind == file and schema < row.since:
                _move(record, row.old, row.new)
    return record


def column_names(schema: int) -> dict[str, str]:
    """Old names of trace columns in runs of a schema → current names."""
    return {row.old: row.new for row in TABLE if row.kind == "trace.parquet" and schema < row.since}


def _move(record: Any, old: str, new: str) -> None:
    """Move the value at a dotted path to another path, unless that is taken."""
    outer, brackets, inner = old.partition("[].")
    if brackets:
        entries = _get(record, outer)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                _move(entry, inner, new.partition("[].")[2])
        return
    if "*." in old:
        flat, end, new_end = _get(record, old.partition(".*")[0]), old.partition("*")[2], new.partition("*")[2]
        for key in [key for key in flat if key.endswith(end)] if isinstance(flat, dict) else ():
            flat[key.removesuffix(end) + new_end] = flat.pop(key)
        return
    parent, _, name = old.rpartition(".")
    node, new_name = _get(record, parent) if parent else record, new.rpartition(".")[2]
    if isinstance(node, dict) and name in node and new_name not in node:
        for key in list(node):  # the others keep their order
            node[new_name if key == name else key] = node.pop(key)


def _get(node: Any, path: str) -> Any:
    """The value at a dotted path; MISSING if there is none."""
    for key in path.split("."):
        node = node.get(key, MISSING) if isinstance(node, dict) else MISSING
    return node


def _set(node: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value


def _remove(node: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    del node[last]
