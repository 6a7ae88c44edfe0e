"""What a configuration is recorded as, and which part of it decides a run's results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from rws_cli.config.schema import Config

NOT_IDENTITY = ("output", "runtime", "metric", "judge", "label", "table", "draw", "objective")
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


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the results."""
    kept = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    runtime = resolved.get("runtime") or {}
    if runtime.get("cache", "none") != "none":
        kept["runtime"] = {key: runtime[key] for key in ("cache", "cache_refresh")}
    return kept


def config_hash(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity(resolved), sort_keys=True).encode()).hexdigest()


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
