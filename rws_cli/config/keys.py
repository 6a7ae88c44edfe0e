"""All keys that can be set, and the error for one that cannot."""

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
"""The keys of parts → their roles. sampler.order is not among them: a name, whose settings are at sampler.NAME."""


def settings_of(cls: type) -> list[Setting]:
    """The settings of a dataclass."""
    settings = []
    for f in fields(cls):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        settings.append(Setting(f.name, str(f.type), f.metadata.get("meaning", ""), default, dict(f.metadata)))
    return settings


def kinds_of(role: str) -> dict[str, list[Setting]]:
    """The kinds of a role: name → settings."""
    kind = {"kind": Setting("kind", "str", "", MISSING, {})}
    return {name: list((kind | source.settings).values()) for name, source in registry.available(role).items()}


def group_of(setting: Setting) -> list[Setting] | None:
    """The settings in a fixed group (sampler, runtime, table); None if the setting is not such a group."""
    cls = getattr(schema, setting.type.removesuffix(" | None"), None)
    return settings_of(cls) if is_dataclass(cls) and isinstance(cls, type) else None


def known_keys() -> list[str]:
    """Every dotted key of the schema, including the settings of all kinds of parts."""

    def walk(settings: Iterable[Setting], prefix: str, above: tuple[str, ...]) -> Iterator[str]:
        for setting in settings:
            key = prefix + setting.name
            yield key
            role = setting.allowed.get("role") or PARTS.get(key)
            if role == "order":
                for source in registry.available("order").values():
                    yield from (f"{prefix}{source.name}.{name}" for name in source.settings if name != "kind")
            elif role and role not in above and not setting.type.startswith(("dict", "str")):
                for inner in kinds_of(role).values():
                    yield from walk(inner, f"{key}.", (*above, role))
            yield from walk(group_of(setting) or (), f"{key}.", above)

    return list(dict.fromkeys(walk(settings_of(schema.Config), "", ())))


def unknown_key(key: str, more: Sequence[str] = ()) -> str:
    """The error for a key that is not a setting. more: keys besides those of `known_keys`."""
    keys = list(dict.fromkeys([*known_keys(), *more]))
    parent, _, last = key.rpartition(".")
    siblings = {name: k for k in keys for at, _, name in [k.rpartition(".")] if at == parent}
    others = [name for name in siblings if name != last]  # the key may be a setting of another kind
    near = closest(last, others, 0.5 if parent else 0.6)
    elsewhere = [
        k for k in keys if k.rpartition(".")[2].lower() == last.lower() and k != key
    ]  # the right name in the wrong place
    elsewhere.sort(key=lambda k: not k.startswith("runtime."))
    whole = None if siblings else closest(key, keys)
    guess = siblings[near] if near else elsewhere[0] if elsewhere else whole
    hint = f"; did you mean {guess}?" if guess else ""
    allowed = f" Settings there: {', '.join(others)}." if others and not hint else ""
    return f"{key} is not a setting here{hint or '.'}{allowed}"
