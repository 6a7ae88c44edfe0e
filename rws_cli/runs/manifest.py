"""manifest.json: all that is needed to say where a run's numbers come from, and to make them again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rws_cli import __version__
from rws_cli.config import PACKAGE, config_hash

SCHEMA = 1
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pandas",
    "pyarrow",
)


def new_manifest(resolved: dict[str, Any], overrides: list[str], command: str) -> dict[str, Any]:
    """status: running, finished, failed or interrupted. Times are UTC. `config` is resolved, `overrides` as typed."""
    return {
        "schema": SCHEMA,
        "status": "running",
        "config": resolved,
        "config_hash": config_hash(resolved),
        "overrides": overrides,
        "command": command,
        "started": now(),
        "finished": None,
        "resumed": [],
        "error": None,
        "versions": versions(),
        "git": git_state(),
        "machine": machine(),
        "checkpoints": {},
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {"rws": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that rws runs from; None for an installed package."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != PACKAGE.parent.resolve():
            return None  # some other project's checkout that an environment lies in
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
