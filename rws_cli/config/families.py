"""Families of samplers, for `rws list sampler` and `rws pareto`: by the part that makes a sampler what it is."""

from pathlib import Path
from typing import Any

import yaml

from rws_cli import registry
from rws_cli.config.catalog import CONF, files

FAMILIES = {
    "orders": "which tokens come first, so many per step",
    "schedules": "how many tokens are committed per step, and which",
    "remasking": "committed tokens are masked again or replaced",
    "lookahead": "canvases of several choices are compared in one pass",
    "speculation": "canvases of later steps are computed in advance",
    "guidance": "logits are changed",
    "search": "several completions, of which one is returned",
}
"""Each family and what its samplers do."""


def family(sampler: dict[str, Any]) -> str:
    """The family of a sampler, from its settings, of which only kinds are read. A part may declare another one as its
    `family`; a part that no longer exists declares nothing."""
    kinds = {
        role: sampler.get(role, {}).get("kind", "none") for role in ("search", "remasking", "guidance", "schedule")
    }
    parts = (registry.available(role).get(kind) for role, kind in kinds.items())
    facts = {role: part.facts if part else {} for role, part in zip(kinds, parts, strict=True)}
    if declared := next((fact["family"] for fact in facts.values() if fact.get("family")), None):
        return str(declared)
    if kinds["search"] != "none":
        return "search"
    if kinds["remasking"] != "none" or facts["schedule"].get("remasks") or facts["schedule"].get("edits"):
        return "remasking"
    if kinds["guidance"] != "none":
        return "guidance"
    return "orders" if kinds["schedule"] in ("fixed", "none") else "schedules"


def by_family(names: list[str]) -> dict[str, list[str]]:
    """Samplers of conf/ by family, in the order of FAMILIES."""
    paths = files("sampler")
    family_of = {name: family(_written(paths[name][0])) for name in names}
    return {each: [name for name in names if family_of[name] == each] for each in FAMILIES}


def _written(file: Path) -> dict[str, Any]:
    """The settings that a file of conf/ and its defaults write, without Hydra, which takes a second."""
    written = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    settings: dict[str, Any] = {}
    for default in written.pop("defaults", ["_self_"]):
        if default == "_self_":
            new = written
        elif isinstance(default, str):
            beside = file.with_name(f"{default}.yaml")
            new = _written(beside if beside.exists() else CONF / "sampler" / beside.name)
        else:
            [(where, choice)] = default.items()
            group, _, package = where.removeprefix("/").partition("@")
            new = {package or group: _written(CONF / group / f"{choice}.yaml")}
        for key, value in new.items():
            both = isinstance(value, dict) and isinstance(settings.get(key), dict)
            settings[key] = settings[key] | value if both else value
    return settings
