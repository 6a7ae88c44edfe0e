"""Every key that can be set, and the sentence for one that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import get_type_hints

from rws_cli import registry
from rws_cli.config.schema import GUIDANCES, JUDGES, REVIEWS, REWARDS, SCHEDULES, SEARCHES, Config
from rws_cli.errors import closest

PARTS = {
    "model": "model",
    "reward": "reward",
    "sampler.guidance": "guidance",
    "sampler.schedule": "schedule",
    "sampler.review": "remasking",
    "sampler.search": "search",
    "benchmark": "benchmark",
    "judge": "judge",
}
"""Where a configuration names a part, key → role; and sampler.order, a name whose settings stand at sampler.NAME."""


def known_keys() -> list[str]:
    """Every dotted key of the schema, guidance and reward settings of all kinds included."""

    def walk(cls: type, at: str) -> list[str]:
        keys = []
        for name, hint in get_type_hints(cls).items():
            keys.append(at + name)
            if is_dataclass(hint):
                keys += walk(hint, f"{at}{name}.")  # type: ignore[arg-type]
        return keys

    keys = walk(Config, "")
    for at, role in PARTS.items():
        keys += [f"{at}.{name}" for source in registry.find(role).values() for name in ("kind", *source.settings)]
    for source in registry.find("order").values():
        keys += [f"sampler.{source.name}.{name}" for name in source.settings if name != "kind"]
    for cls in REWARDS.values():
        keys += walk(cls, "reward.")
    for name in ("guidance", "schedule", "review", "search"):
        for cls in {"guidance": GUIDANCES, "schedule": SCHEDULES, "review": REVIEWS, "search": SEARCHES}[name].values():
            keys += walk(cls, f"sampler.{name}.")
    for cls in JUDGES.values():
        keys += walk(cls, "judge.")
    return list(dict.fromkeys(keys))


def unknown_key(key: str, more: Sequence[str] = ()) -> str:
    """The sentence for a key that is no setting; more: settings besides those of the built-in parts."""
    keys = list(dict.fromkeys([*known_keys(), *more]))
    parent, _, last = key.rpartition(".")
    siblings = {name: k for k in keys for at, _, name in [k.rpartition(".")] if at == parent}
    others = [name for name in siblings if name != last]  # it may be a setting of another kind
    near = closest(last, others, 0.5 if parent else 0.6)
    elsewhere = [
        k for k in keys if k.rpartition(".")[2].lower() == last.lower() and k != key
    ]  # a right name in the wrong place
    elsewhere.sort(key=lambda k: not k.startswith("runtime."))
    whole = None if siblings else closest(key, keys)
    found = siblings[near] if near else elsewhere[0] if elsewhere else whole
    hint = f"; did you mean {found}?" if found else ""
    allowed = f" Settings there: {', '.join(others)}." if siblings and not hint else ""
    return f"{key} is not a setting here{hint or '.'}{allowed}"
