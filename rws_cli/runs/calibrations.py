"""Statistics that rws calibrate measured, found again by what they belong to: reward, model and benchmark.

A calibration records its facts: every setting that changes a score or a prompt, hashes of checkpoints, and of the first
examples. A run takes the newest calibration whose facts are its own. Limits, devices and the like may differ, and a
checkpoint or a data file may have moved, as long as its content is the same.
"""

import hashlib
import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rws_cli import registry
from rws_cli.config.identity import differing_keys
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.files import versions
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
"""Settings of a checkpoint that change no score, but for rounding."""
PLACES = ("path", "revision", "shots_path")
"""Where content is; what counts is the content."""
FIRST = 1000
"""Examples that are recorded by hash."""


def folder_of(config: Config) -> Path:
    """Where rws calibrate leaves its versions for a reward, a model and a benchmark of these names."""
    return Path(config.output) / "calibration" / config.reward.name / f"{config.model.name}-{config.benchmark.name}"


def facts_of(config: Config, benchmark: Any, examples: list[Any], reward: Reward) -> dict[str, Any]:
    """What statistics of this reward belong to."""
    reward_facts = _facts(config.reward, "reward")
    if used := reward.depends_on():
        reward_facts["statistics"] = [asdict(statistics) for statistics in used]
    asked = {e.question or e.id: [e.prompt, e.reference] for e in examples if not e.follows}
    settings = {f.name: getattr(benchmark, f.name) for f in fields(benchmark) if f.metadata.get("asks", True)}
    return {
        "reward": reward_facts,
        "model": _facts(config.model, "model"),
        "benchmark": settings | {"version": benchmark.version},
        "examples": {name: _hash(text) for name, text in list(asked.items())[:FIRST]},
    }


def find_statistics(config: Config, facts: dict[str, Any], needed: bool) -> Statistics | None:
    """The newest statistics with these facts; None if there are none. Raises UsageError if there are some with other
    facts only and the run needs them."""
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
                f"{file} was measured with {there}, and this run has {here}: measure its statistics with rws calibrate"
            )
        elif why is None:
            overrides = (stored.get("provenance") or {}).get("overrides") or []
            command = shlex.join(["rws", "calibrate", *map(str, overrides)])
            why = f"{file} does not say what it belongs to, for an earlier rws measured it: make it anew with {command}"
    if needed and why:
        raise UsageError(f"{why}, or set reward.statistics=<a JSON file with mean, std, min, max>.")
    return None


def mismatches(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The facts in which two calibrations differ, by key, with both values. Of content that differs its place is named, if
    that differs too."""
    groups = ("reward", "model", "benchmark")
    differing = differing_keys({g: there.get(g) or {} for g in groups}, {g: here[g] for g in groups})
    places = {key: pair for key, pair in differing.items() if key.rpartition(".")[2] in PLACES}
    found = {key: pair for key, pair in differing.items() if key not in places}
    old = there.get("examples") or {}
    if changed := [name for name in old if name in here["examples"] and old[name] != here["examples"][name]]:
        found["benchmark.content"] = (f"another {changed[0]}", f"this {changed[0]}")
    named: dict[str, tuple[Any, Any]] = {}
    for key, pair in found.items():
        at, _, name = key.rpartition(".")
        moved = {k: v for k, v in places.items() if k.rpartition(".")[0] == at} if name == "content" else {}
        named |= moved or {key: pair}
    return named


def _files(folder: Path) -> list[Path]:
    """The calibrations in a folder, the newest first; where they were copied without their versions, `latest`."""
    files = [p / "normalization.json" for p in (versions(folder) or [folder / "latest"])]
    return [file for file in files if file.is_file()]


def _facts(node: Any, at: str) -> Any:
    """The settings of a reward or model that decide its scores, with its checkpoint's content, or its own file's."""
    if isinstance(node, dict):
        return {name: _facts(value, f"{at}.{name}") for name, value in node.items()}
    if not isinstance(node, Model | Reward):
        return node
    left_out = {"name", "statistics", *(OPERATIONAL if isinstance(node, Checkpoint) else ())}
    facts = {f.name: _facts(getattr(node, f.name), f"{at}.{f.name}") for f in fields(node) if f.name not in left_out}
    if isinstance(node, Checkpoint):
        facts["content"] = content(locate(node.path, f"{at}.path"), node.revision)
    elif (source := registry.available("reward")[node.kind]).root.package != "rws_cli":
        facts["file"] = source.sha256[:12]
    return facts


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
