"""Find the statistics that `rws calibrate` measured for a run's reward, model and benchmark.

A calibration records its facts: every setting that changes a score or a prompt, and hashes of the checkpoints and the
first examples. A run uses the newest calibration whose facts equal its own. Limits and devices may differ, and a
checkpoint or data file may have moved, as long as its content is the same.
"""

import hashlib
import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rws_cli import registry
from rws_cli.analysis.verdicts import deciding
from rws_cli.config.identity import differing_keys
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.files import versions
from rws_cli.judges.base import Judge
from rws_cli.models.adapter import adapter_folder
from rws_cli.models.base import Model
from rws_cli.models.checkpoint import Checkpoint, content, locate
from rws_cli.rewards.base import Reward, Statistics, as_statistics, read_statistics

OPERATIONAL = (
    "dtype",
    "device",
    "device_map",
    "attention",
    "trust_remote_code",
    "needs_remote_code",
    "batch_size",
    "max_length",
)
"""Settings of a checkpoint that do not change scores, except for rounding."""
PLACES = ("path", "revision", "shots_path", "tree")
"""Locations of content; only the content itself counts."""
FIRST = 1000
"""The number of examples whose hashes are recorded."""


def folder_of(config: Config) -> Path:
    """The folder of calibrations for a reward, model and benchmark of these names."""
    return Path(config.output) / "calibration" / config.reward.name / f"{config.model.name}-{config.benchmark.name}"


def facts_of(config: Config, benchmark: Any, examples: list[Any], reward: Reward) -> dict[str, Any]:
    """The facts that this reward's statistics depend on."""
    reward_facts = _facts(config.reward, "reward")
    if reward.source:
        reward_facts["content"] = _hash(reward.source)
    if used := reward.depends_on():
        reward_facts["statistics"] = [asdict(statistics) for statistics in used]
    texts = {e.question or e.id: [e.prompt, e.reference] for e in examples if not e.follows}
    settings = {f.name: getattr(benchmark, f.name) for f in fields(benchmark) if f.metadata.get("asks", True)}
    return {
        "reward": reward_facts,
        "model": _facts(config.model, "model"),
        "benchmark": settings | {"version": benchmark.version},
        "examples": {name: _hash(text) for name, text in list(texts.items())[:FIRST]},
    }


def find_statistics(config: Config, facts: dict[str, Any], needed: bool) -> Statistics | None:
    """The newest statistics with these facts; None if there are none. Raises UsageError if the run needs statistics and
    those that exist were measured with other facts."""
    why = None
    for file in _files(folder_of(config)):
        stored = read_statistics(file, "reward")
        recorded = stored.get("calibrated")
        if isinstance(recorded, dict) and not (differing := mismatches(recorded, facts)):
            return as_statistics(stored)
        if why is None and isinstance(recorded, dict):
            there = ", ".join(f"{key}={old}" for key, (old, _) in differing.items())
            here = ", ".join(f"{key}={new}" for key, (_, new) in differing.items())
            why = (
                f"{file} was measured with {there}, but this run has {here}: measure its statistics with rws calibrate"
            )
        elif why is None:
            overrides = (stored.get("provenance") or {}).get("overrides") or []
            command = shlex.join(["rws", "calibrate", *map(str, overrides)])
            why = f"{file} was measured by an earlier rws and does not say for what: measure it again with {command}"
    if needed and why:
        raise UsageError(f"{why}, or set reward.statistics=<a JSON file with mean, std, min, max>.")
    return None


def mismatches(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The facts in which two calibrations differ, by key, with both values. For different content, the location is given
    instead if that differs too."""
    groups = ("reward", "model", "benchmark")
    differing = differing_keys({g: there.get(g) or {} for g in groups}, {g: here[g] for g in groups})
    places = {key: pair for key, pair in differing.items() if key.rpartition(".")[2] in PLACES}
    changed_facts = {key: pair for key, pair in differing.items() if key not in places}
    old = there.get("examples") or {}
    if changed := [name for name in old if name in here["examples"] and old[name] != here["examples"][name]]:
        changed_facts["benchmark.content"] = (f"another {changed[0]}", f"this {changed[0]}")
    named: dict[str, tuple[Any, Any]] = {}
    for key, pair in changed_facts.items():
        parent, _, name = key.rpartition(".")
        moved = {k: v for k, v in places.items() if k.rpartition(".")[0] == parent} if name == "content" else {}
        named |= moved or {key: pair}
    return named


def _files(folder: Path) -> list[Path]:
    """The calibrations in a folder, newest first; if only `latest` was copied, that one."""
    files = [p / "normalization.json" for p in (versions(folder) or [folder / "latest"])]
    return [file for file in files if file.is_file()]


def _facts(node: Any, key: str) -> Any:
    """The settings of a reward or model that determine its scores, with a hash of its checkpoint or source file."""
    if isinstance(node, dict):
        return {name: _facts(value, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, Judge):
        return deciding(asdict(node))
    if not isinstance(node, Model | Reward):
        return node
    left_out = {"name", "statistics", *(OPERATIONAL if isinstance(node, Checkpoint) else ())}
    facts = {f.name: _facts(getattr(node, f.name), f"{key}.{f.name}") for f in fields(node) if f.name not in left_out}
    if isinstance(node, Checkpoint):
        facts["content"] = content(locate(node.path, f"{key}.path"), node.revision)
        if adapter := getattr(node, "adapter", None):
            facts["adapter"] = content(adapter_folder(adapter), None)
    elif (source := registry.available("reward")[node.kind]).root.package != "rws_cli":
        facts["file"] = source.sha256[:12]
    return facts


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
