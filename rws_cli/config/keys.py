"""Every key that can be set, and the sentence for one that cannot."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass

from rws_cli import registry
from rws_cli.config import schema
from rws_cli.errors import closest
from rws_cli.registry import Setting

PARTS = {
    "model": "model",
    "reward": "reward",
    "sampler.guidance": "guidance",
    "sampler.schedule": "schedule",
    "sampler.remasking": "remasking",
    "sampler.search": "search",
    "benchmark": "benchmark",
    "judge": "judge",
}
"""Where a configuration names a part, key → role; and sampler.order, a name whose settings stand at sampler.NAME."""


def settings_of(cls: type) -> list[Setting]:
    """The settings of a dataclass."""
    found = []
    for f in fields(cls):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        found.append(Setting(f.name, str(f.type), f.metadata.get("meaning", ""), default, dict(f.metadata)))
    return found


def kinds_of(role: str) -> dict[str, list[Setting]]:
    """The kinds of a role: name → its settings."""
    kind = {"kind": Setting("kind", "str", "", MISSING, {})}
    return {name: list((kind | source.settings).values()) for name, source in registry.available(role).items()}


def group_of(setting: Setting) -> list[Setting] | None:
    """The settings of a setting that is a group of them, always the same ones: sampler, runtime, table."""
    cls = getattr(schema, setting.type.removesuffix(" | None"), None)
    return settings_of(cls) if is_dataclass(cls) and isinstance(cls, type) else None


def known_keys() -> list[str]:
    """Every dotted key of the schema, with the settings of all kinds of parts."""

    def walk(settings: Iterable[Setting], at: str, above: tuple[str, ...]) -> Iterator[str]:
        for setting in settings:
            key = at + setting.name
            yield key
            role = setting.allowed.get("role") or PARTS.get(key)
            if role == "order":
                for source in registry.available("order").values():
                    yield from (f"{at}{source.name}.{name}" for name in source.settings if name != "kind")
            elif role and role not in above and not setting.type.startswith(("dict", "str")):
                for inner in kinds_of(role).values():
                    yield from walk(inner, f"{key}.", (*above, role))
            yield from walk(group_of(setting) or (), f"{key}.", above)

    return list(dict.fromkeys(walk(settings_of(schema.Config), "", ())))


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
    allowed = f" Settings there: {', '.join(others)}." if others and not hint else ""
    return f"{key} is not a setting here{hint or '.'}{allowed}"
