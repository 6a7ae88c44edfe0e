"""Check a machine and a configuration in seconds, before a cluster job fails on them."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from rws_cli import registry
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.models.checkpoint import active_weights, checkpoints, locate, reason, stored_weights
from rws_cli.models.loading import pick_device
from rws_cli.runs.batch_decoder import rows_at_once
from rws_cli.runs.manifest import versions
from rws_cli.runs.memory import MemoryPlan, memory_plan, weight_bytes
from rws_cli.runs.prepared import PreparedRun, prepare, reward_models

GIB = 1 << 30
HUB_SECONDS = 3.0
"""Timeout for reaching the Hugging Face Hub."""


@dataclass(frozen=True)
class Finding:
    """A line of the output. ok: whether the check passed; None: nothing to check."""

    name: str
    detail: str
    ok: bool | None = None


def examine(config: Config) -> list[Finding]:
    """Check software, devices, disk and the Hub, then what the configured models need on each device."""
    import torch

    findings = [Finding(name, version) for name, version in versions().items()]
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        findings.append(
            Finding(f"cuda:{n}", f"{torch.cuda.get_device_name(n)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
        )
    if not torch.cuda.is_available():
        findings.append(Finding("GPU", "torch finds none; decoding runs on the CPU"))
    findings.append(Finding("CPU", f"{os.cpu_count()} cores, {free_memory('cpu') / GIB:.1f} GiB of memory free"))
    online = hub_reachable()
    findings += [disk("output", Path(config.output)), disk("Hub cache", hub_cache()), hub(online)]
    with nullcontext() if online else offline():
        return [*findings, *check_components(config, online)]


def free_memory(device: str) -> int:
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return psutil.virtual_memory().available


def disk(name: str, folder: Path) -> Finding:
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIB
    writable = os.access(existing, os.W_OK)
    return Finding(
        name, f"{folder}, {free:.1f} GiB free" + ("" if writable else ", not writable"), writable and free > 1
    )


def hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def hub_reachable() -> bool:
    """Whether the Hub answers within HUB_SECONDS. Tried in a thread, because name resolution has no timeout."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    responses: list[bool] = []

    def request() -> None:
        with suppress(Exception):  # any error of the network, a proxy or a certificate
            get_session().head(ENDPOINT, timeout=HUB_SECONDS)
            responses.append(True)

    if not HF_HUB_OFFLINE:
        thread = Thread(target=request, daemon=True)
        thread.start()
        thread.join(HUB_SECONDS)
    return bool(responses)


def hub(online: bool) -> Finding:
    """Whether the Hub can be reached and a token is set; the token itself is not shown."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    reached = "reachable" if online else "turned off by HF_HUB_OFFLINE" if HF_HUB_OFFLINE else "not reachable"
    token = "a token is set" if get_token() else "no token (not needed for public models)"
    return Finding("Hub", f"{reached}; {token}")


@contextmanager
def offline() -> Iterator[None]:
    """Limit the Hugging Face libraries to their caches; otherwise each file waits for a network timeout."""
    import datasets
    from huggingface_hub import constants

    modules: tuple[Any, ...] = (constants, datasets.config)
    with ExitStack() as stack:
        for module in modules:
            stack.callback(setattr, module, "HF_HUB_OFFLINE", module.HF_HUB_OFFLINE)
            module.HF_HUB_OFFLINE = True
        yield


def all_checkpoints(config: Config) -> dict[str, Any]:
    return checkpoints(config.model, "model") | reward_models(config)


@contextmanager
def finding_of(findings: list[Finding], name: str) -> Iterator[list[str]]:
    """Append a finding: the details that the block collects (passed), or the error that it raises (failed)."""
    details: list[str] = []
    try:
        yield details
        findings.append(Finding(name, "; ".join(details), True))
    except (UsageError, RunError) as error:
        findings.append(Finding(name, str(error), False))
    except Exception as error:  # one broken check must not hide the others
        findings.append(Finding(name, f"{type(error).__name__}: {reason(error)}", False))


def check_components(config: Config, online: bool = False) -> list[Finding]:
    """Check that model, rewards and benchmark can be loaded, and that they fit into their devices' free memory.

    Each rank holds a part of the model and all of the rewards. online: whether missing checkpoints can be downloaded.
    """
    findings: list[Finding] = []
    reward_bytes: dict[str, float] = {}
    workers, ranks = registry.make("worker", config.runtime.backend, "runtime.backend"), [config]
    if workers.shares_model:
        with finding_of(findings, "runtime") as details:
            ranks = workers.ranks(config)
            details.append(f"{len(ranks)} ranks")
    for key, node in all_checkpoints(config).items():
        with finding_of(findings, f"{key}={node.name}") as details:
            devices = [pick_device(all_checkpoints(one)[key].device, f"{key}.device") for one in ranks]
            weights = stored_weights(locate(node.path, f"{key}.path"), node.revision, f"{key}.path")
            if weights is None and not online:
                raise UsageError(
                    f"{node.path} is not on this machine, and the Hub cannot be reached: download it first, or give a folder."
                )
            node.check(key)
            if weights is None:
                details.append(f"{node.path} is not on this machine and will be downloaded")
                continue
            part = weight_bytes(node, weights, devices[0]) / (len(ranks) if key == "model" else 1)
            places = ", ".join(dict.fromkeys(map(str, devices)))
            each_rank = f" for each of {len(ranks)} ranks" if workers.shares_model else ""
            details.append(f"{weights[0]:,} weights, {part / GIB:.2f} GiB{each_rank} on {places}")
            for name in map(str, devices) if key != "model" else ():
                reward_bytes[name] = reward_bytes.get(name, 0.0) + part
    with finding_of(findings, f"benchmark={config.benchmark.name}") as details:
        details.append(f"{len(config.benchmark.examples()):,} examples")
    if not all(finding.ok for finding in findings):
        return findings
    with finding_of(findings, "decoding step") as details:
        prepared = prepare(config)
        device = pick_device(config.model.device, "model.device")
        if prepared.model.arguments.get("config") is not None and (active := active_of(config, prepared)):
            details.append(f"{active:,} of the weights are active for a token")

        def planned(rows: int) -> MemoryPlan:
            return memory_plan(config, prepared, device, rows, len(ranks))

        rows = rows_at_once(config, prepared)
        plan = planned(rows)
        details.append(f"{plan.rows} rows of up to {plan.length} tokens; halved if memory runs out")
    if not findings[-1].ok:
        return findings
    findings.append(Finding("memory plan", described(plan, bool(reward_bytes))))
    processes = Counter(str(pick_device(one.model.device, "model.device")) for one in ranks)
    for name in dict.fromkeys([*processes, *reward_bytes]):

        def needed(rows: int, name: str = name) -> float:
            decoding = processes[name] * planned(rows).peak if name in processes else 0.0
            return reward_bytes.get(name, 0.0) + decoding

        findings.append(memory(name, needed, rows))
    return findings


def described(plan: MemoryPlan, rewards: bool) -> str:
    """The plan of a device for a user. rewards: whether there are reward models."""
    weights, cache, activations, logits, peak = (
        f"{size / GIB:.2f}" for size in (plan.weights, plan.cache, plan.activations, plan.logits, plan.peak)
    )
    uncounted = "; the passes of reward models are not counted" if rewards else ""
    return (
        f"{peak} GiB: weights {weights}, cache {cache}, and the larger of activations {activations} and logits {logits}"
        f"{uncounted}"
    )


def memory(device: str, needed: Callable[[int], float], rows: int) -> Finding:
    """Whether a device has room for `rows` rows; if not, how many rows it has room for. needed: rows → bytes."""
    free = free_memory(device)
    fits, words = needed(rows) < free, "fits"
    if not fits:
        fitting = bisect_left(range(1, rows), True, key=lambda fewer: needed(fewer) >= free)
        smaller = f"set runtime.batch_size={fitting}, which fits, or try" if fitting else "try"
        words = f"does not fit: {smaller} model.dtype, model.quantization or model.device_map"
    return Finding(f"memory on {device}", f"{needed(rows) / GIB:.2f} GiB of {free / GIB:.1f} GiB free: {words}", fits)


def active_of(config: Config, prepared: PreparedRun) -> int | None:
    """The number of weights that are active for a token in a mixture of experts; None if all are."""
    path, revision = prepared.model.path, config.model.revision
    stored = stored_weights(path, revision, "model.path")
    active = active_weights(path, revision, "model.path", prepared.model.arguments["config"])
    return active if stored and active != stored[0] else None
