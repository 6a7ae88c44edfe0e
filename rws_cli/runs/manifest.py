"""manifest.json: everything needed to trace a run's numbers and to reproduce them."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rws_cli import __version__, registry
from rws_cli.config.catalog import PACKAGE
from rws_cli.config.check import updated_config
from rws_cli.config.identity import config_hash, differing_keys, identity, parts_used, resolved
from rws_cli.config.schema import Config
from rws_cli.errors import Interrupted, RunError, UsageError
from rws_cli.files import write_json
from rws_cli.runs.folder import check_no_links, claim_version, point_latest
from rws_cli.runs.forms import SCHEMA
from rws_cli.runs.records import SAMPLES, drop_broken_line, drop_untraced
from rws_cli.runs.upgrade import read_manifest, upgrade

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
    "datasets",
    "math-verify",
    "lm-eval",
)


@dataclass(frozen=True)
class Request:
    """What the user requests.

    overrides, command: as typed. folder: to run in; resume: the run to resume. quiet: progress goes to run.log only.
    """

    overrides: list[str]
    command: str
    folder: Path | None = None
    resume: Path | None = None
    quiet: bool = False


def resumable(folder: Path, config: Config) -> dict[str, Any]:
    """The manifest of a run to resume. Raises UsageError naming the keys in which its configuration differs."""
    manifest = read_manifest(folder)
    check_parts(folder, manifest)
    if differing := differing_keys(identity(updated_config(manifest["config"])), identity(resolved(config))):
        listed = ", ".join(f"{key} ({old} then, {new} now)" for key, (old, new) in list(differing.items())[:8])
        raise UsageError(f"{folder} cannot be resumed, because these settings differ: {listed}.")
    return manifest


def check_parts(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises UsageError if an external part that a run was made with is missing or has changed."""
    for key, part in manifest["sources"].get("parts", {}).items():
        if part["source"] == "rws":
            continue  # its version is recorded
        available = registry.available(part["role"]) if part["role"] in registry.ROLES else {}
        made = f"{folder} was made with {key}={part['name']} of {part['source']}"
        if part["name"] not in available:
            advice = "type that option again" if part["source"].startswith("--parts ") else "install that package"
            raise UsageError(f"{made}, which is missing: {advice}.")
        if available[part["name"]].sha256 != part["sha256"]:
            raise UsageError(
                f"{made}, and {available[part['name']].file} has changed since: restore the original file."
            )


def open_run(
    config: Config, request: Request, stopped: dict[str, Any] | None, sources: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Claim a run folder, or reopen that of a run to resume; returns it with its manifest, now running.

    stopped: the manifest of the run to resume. Raises UsageError if that run used other weights or examples than
    `sources`, or if its folder contains links.
    """
    if request.resume and stopped:
        check_no_links(request.resume)
        if changed := [name for name, source in sources.items() if stopped["sources"].get(name) != source]:
            raise UsageError(
                f"{request.resume} cannot be resumed: the {' and the '.join(changed)} changed since it was started."
            )
        drop_broken_line(request.resume / SAMPLES)
        drop_untraced(request.resume)
        upgrade(request.resume)
        manifest = stopped | {
            "schema": SCHEMA,
            "status": "running",
            "error": None,
            "failed": {},
            "resumed": [*stopped["resumed"], now()],
        }
        write_json(request.resume / "manifest.json", manifest)
        return request.resume, manifest
    parent = Path(config.output) / config.benchmark.name / f"{config.model.name}-{config.sampler.name}"
    folder = request.folder or claim_version(parent)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema": SCHEMA,
        "status": "running",
        "config": resolved(config),
        "config_hash": config_hash(resolved(config)),
        "overrides": request.overrides,
        "command": request.command,
        "started": now(),
        "finished": None,
        "resumed": [],
        "error": None,
        "failed": {},
        "versions": versions(),
        "git": git_state(),
        "machine": machine(),
        "sources": sources | {"parts": parts_used(config)},
    }
    write_json(folder / "manifest.json", manifest)
    if request.folder is None:
        point_latest(folder)
    return folder, manifest


def grader_version(manifest: dict[str, Any]) -> int:
    """The version of the grader that made a run's current grades."""
    graded = manifest.get("graded")
    return graded[-1]["grader"] if graded else manifest["sources"]["benchmark"]["version"]


@contextmanager
def record_status(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Record in the manifest how the block ends: finished, failed (also if manifest["failed"] lists examples) or
    interrupted. Times are UTC.

    Raises Interrupted, naming the folder, if the user stopped the run, and RunError if the folder cannot be written.
    """
    try:
        try:
            yield
            failed = manifest["failed"]
            manifest.update(status="failed" if failed else "finished", finished=now(), error=failure_summary(manifest))
        except KeyboardInterrupt as stop:
            manifest.update(status="interrupted", finished=now(), error="interrupted by the user")
            raise stop if isinstance(stop, Interrupted) else Interrupted(str(folder)) from stop
        except BaseException as error:
            manifest.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
            raise
        finally:
            write_json(folder / "manifest.json", manifest)
    except OSError as error:
        file = f" (file {error.filename})" if error.filename else ""
        raise RunError(
            f"{folder} cannot be written{file}: {error.strerror or error}. Finished examples are kept; once this is fixed, "
            f"resume with: rws run --resume {folder}"
        ) from error


def failure_summary(manifest: dict[str, Any]) -> str | None:
    """How many examples failed, and why the first did; None if none did."""
    if not manifest["failed"]:
        return None
    first, why = next(iter(manifest["failed"].items()))
    return f"{len(manifest['failed'])} examples failed, the first ({first}) because: {why}"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    installed = {"rws": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def git_state() -> dict[str, Any] | None:
    """The commit of the checkout that rws runs from, and whether it has changes; None for an installed package."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        found = subprocess.run(command, capture_output=True, check=True, timeout=10, encoding="utf-8", errors="replace")
        return found.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != PACKAGE.parent.resolve():
            return None  # the environment is inside another project's checkout
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
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
