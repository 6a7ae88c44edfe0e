"""What a configuration is recorded as, and which part of it decides a run's results."""

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from rws_cli import registry
from rws_cli.config.schema import Config
from rws_cli.part import Part

NOT_IDENTITY = ("output", "runtime", "metric", "judge", "label", "table", "plot", "objective")
"""Top-level keys that do not change results: left out of the hash, and free to differ at a resume; of runtime a cache."""


def resolved(config: Config) -> dict[str, Any]:
    """A checked configuration as it is recorded, every default filled in."""
    values = asdict(config)
    sampler, order = values["sampler"], values["sampler"]["order"]
    if isinstance(order, dict):
        sampler["order"] = order.pop("kind")
        if order:
            sampler[sampler["order"]] = order
    return values


def parts_used(node: Any, at: str = "") -> dict[str, dict[str, str]]:
    """The parts of a checked configuration by their keys: role, name, where each is from, and the hash of its file."""
    settings = [(name, value, "") for name, value in node.items()] if isinstance(node, dict) else []
    if is_dataclass(node):
        settings = [(f.name, getattr(node, f.name), f.metadata.get("role", "")) for f in fields(node)]
    found = {}
    for name, value, role in settings:
        role, kind = (value.role, value.kind) if isinstance(value, Part) else (role, value)
        if role and isinstance(kind, str) and (part := registry.available(role).get(kind)):
            source = {"role": role, "name": kind, "source": part.root.source, "sha256": part.sha256}
            found[at + name] = source
        found |= parts_used(value, f"{at}{name}.")
    return found


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the results."""
    kept = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    runtime = resolved.get("runtime") or {}
    if runtime.get("cache", "none") != "none":
        kept["runtime"] = {key: runtime[key] for key in ("cache", "cache_refresh")}
    return kept


def config_hash(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity(resolved), sort_keys=True).encode()).hexdigest()


def recorded_hash(manifest: dict[str, Any]) -> str:
    """The hash of a run's configuration when it was made, by which verdicts name the run."""
    return manifest.get("config_hash_before", manifest["config_hash"])


def differing_keys(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys at which two nested dictionaries differ, with both values (None where a key is absent)."""
    flat_a, flat_b = flat(a), flat(b)
    return {
        key: (flat_a.get(key), flat_b.get(key)) for key in sorted(flat_a | flat_b) if flat_a.get(key) != flat_b.get(key)
    }


def flat(node: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found
