"""How a configuration is recorded, and the part of it that determines a run's results."""

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from rws_cli import registry
from rws_cli.config.schema import Config
from rws_cli.part import Part

NOT_IDENTITY = ("output", "runtime", "metric", "judge", "label", "table", "plot", "objective")
"""Top-level keys that do not change results: not hashed, and may differ on resume. A cache in runtime is an exception."""


def resolved(config: Config) -> dict[str, Any]:
    """A checked configuration as it is recorded, with all defaults."""
    values = asdict(config)
    sampler, order = values["sampler"], values["sampler"]["order"]
    if isinstance(order, dict):
        sampler["order"] = order.pop("kind")
        if order:
            sampler[sampler["order"]] = order
    return values


def parts_used(node: Any, prefix: str = "") -> dict[str, dict[str, str]]:
    """The parts of a checked configuration, by key: role, name, source, and the hash of the file."""
    settings = [(name, value, "") for name, value in node.items()] if isinstance(node, dict) else []
    if is_dataclass(node):
        settings = [(f.name, getattr(node, f.name), f.metadata.get("role", "")) for f in fields(node)]
    used = {}
    for name, value, role in settings:
        role, kind = (value.role, value.kind) if isinstance(value, Part) else (role, value)
        if role and isinstance(kind, str) and (part := registry.available(role).get(kind)):
            source = {"role": role, "name": kind, "source": part.root.source, "sha256": part.sha256}
            used[prefix + name] = source
        used |= parts_used(value, f"{prefix}{name}.")
    return used


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that determines the results."""
    identifying = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    benchmark = registry.available("benchmark").get(str((resolved.get("benchmark") or {}).get("kind")))
    if benchmark is None or not benchmark.facts.get("chooses"):
        identifying.pop("likelihood", None)
    runtime = resolved.get("runtime") or {}
    if runtime.get("cache", "none") not in ("none", "auto"):
        identifying["runtime"] = {key: runtime[key] for key in ("cache", "cache_refresh")}
    return identifying


def config_hash(resolved: dict[str, Any]) -> str:
    """SHA-256 of what determines the results."""
    return hashlib.sha256(json.dumps(identity(resolved), sort_keys=True).encode()).hexdigest()


def recorded_hash(manifest: dict[str, Any]) -> str:
    """The hash of a run's configuration when the run was made; verdicts refer to the run by it."""
    return manifest.get("config_hash_before", manifest["config_hash"])


def differing_keys(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys at which two nested dictionaries differ, with both values (None if absent)."""
    flat_a, flat_b = flat(a), flat(b)
    return {
        key: (flat_a.get(key), flat_b.get(key)) for key in sorted(flat_a | flat_b) if flat_a.get(key) != flat_b.get(key)
    }


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as a flat one, by dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
