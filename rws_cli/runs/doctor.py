"""What this machine has, and whether what is configured fits: found in seconds, before a cluster job finds out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from rws_cli import registry
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.models.checkpoint import checkpoints, locate, reason, stored_weights
from rws_cli.models.loading import pick_device, pick_dtype
from rws_cli.runs.batch_decoder import rows_at_once
from rws_cli.runs.manifest import versions
from rws_cli.runs.prepared import prepare

WIDTH = {"8bit": 1, "4bit": 0.5}
"""Bytes a weight, where quantized."""
GIB = 1 << 30


HUB_SECONDS = 3.0
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class Finding:
    """A line: what was looked at, what was found, and whether that is well (None: neither)."""

    name: str
    found: str
    well: bool | None = None


def examine(config: Config) -> list[Finding]:
    """Software, devices, disk and hub; then what the configured models need, device by device."""
    import torch

    findings = [Finding(name, version) for name, version in versions().items()]
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        findings.append(
            Finding(f"cuda:{n}", f"{torch.cuda.get_device_name(n)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
        )
    if not torch.cuda.is_available():
        findings.append(Finding("GPU", "none that torch finds; decoding runs on the CPU"))
    findings.append(Finding("CPU", f"{os.cpu_count()} cores, {free_memory('cpu') / GIB:.1f} GiB of memory free"))
    online = hub_answers()
    findings += [disk("output", Path(config.output)), disk("hub cache", hub_cache()), hub(online)]
    with nullcontext() if online else offline():
        return [*findings, *needs(config, online)]


def free_memory(device: str) -> int:
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return psutil.virtual_memory().available


def disk(name: str, folder: Path) -> Finding:
    folder = folder.absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free / GIB
    writable = os.access(there, os.W_OK)
    return Finding(
        name, f"{folder}, {free:.1f} GiB free" + ("" if writable else ", not writable"), writable and free > 1
    )


def hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def hub_answers() -> bool:
    """Whether the hub can be reached, asked once; in a thread, for looking up a name heeds no time-out."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    answers: list[bool] = []

    def ask() -> None:
        with suppress(Exception):  # whatever is wrong with a network, a proxy or a certificate
            get_session().head(ENDPOINT, timeout=HUB_SECONDS)
            answers.append(True)

    if not HF_HUB_OFFLINE:
        asking = Thread(target=ask, daemon=True)
        asking.start()
        asking.join(HUB_SECONDS)
    return bool(answers)


def hub(online: bool) -> Finding:
    """Whether the hub can be reached and whether there is a token for it; never which."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    reached = "answers" if online else "turned off by HF_HUB_OFFLINE" if HF_HUB_OFFLINE else "does not answer"
    token = "there is a token" if get_token() else "no token, which public models do without"
    return Finding("hub", f"{reached}; {token}")


@contextmanager
def offline() -> Iterator[None]:
    """Let the libraries of Hugging Face look into their caches alone, where each file would wait for the network."""
    import datasets
    from huggingface_hub import constants

    modules: tuple[Any, ...] = (constants, datasets.config)
    with ExitStack() as stack:
        for module in modules:
            stack.callback(setattr, module, "HF_HUB_OFFLINE", module.HF_HUB_OFFLINE)
            module.HF_HUB_OFFLINE = True
        yield


def all_checkpoints(config: Config) -> dict[str, Any]:
    return checkpoints(config.model, "model") | checkpoints(config.reward, "reward")


@contextmanager
def line(findings: list[Finding], name: str) -> Iterator[list[str]]:
    """Add a line of that name: what the block finds, which is well, or what it raises, which is not."""
    found: list[str] = []
    try:
        yield found
        findings.append(Finding(name, "; ".join(found), True))
    except (UsageError, RunError) as error:
        findings.append(Finding(name, str(error), False))
    except Exception as error:  # rather a line than a traceback: the other lines are wanted all the more
        findings.append(Finding(name, f"{type(error).__name__}: {reason(error)}", False))


def needs(config: Config, online: bool = False) -> list[Finding]:
    """Whether the model, the rewards and the benchmark can be loaded, what they need on their devices, and whether that
    is free. Ranks have a part of the model and all of the rewards each. online: what is not here can be downloaded."""
    findings: list[Finding] = []
    together: dict[str, float] = {}
    workers, ranks = registry.make("worker", config.runtime.backend, "runtime.backend"), [config]
    if workers.shares_model:
        with line(findings, "runtime") as found:
            ranks = workers.ranks(config)
            found.append(f"{len(ranks)} ranks")
    for at, node in all_checkpoints(config).items():
        with line(findings, f"{at}={node.name}") as found:
            devices = [pick_device(all_checkpoints(one)[at].device, f"{at}.device") for one in ranks]
            weights = stored_weights(locate(node.path, f"{at}.path"), node.revision, f"{at}.path")
            if weights is None and not online:
                raise UsageError(
                    f"{node.path} is not on this machine, and the hub cannot be reached: download it first, or give a folder."
                )
            node.check(at)
            if weights is None:
                found.append(f"{node.path} is not on this machine and would be downloaded")
                continue
            count, stored = weights
            dtype = pick_dtype(node.dtype, devices[0])
            width = WIDTH.get(node.quantization) or (stored / count if dtype == "auto" else dtype.itemsize)  # type: ignore[union-attr]
            part = count * width / (len(ranks) if at == "model" else 1)
            places = ", ".join(dict.fromkeys(map(str, devices)))
            each_rank = f" for each of {len(ranks)} ranks" if workers.shares_model else ""
            found.append(f"{count:,} weights, {part / GIB:.2f} GiB{each_rank} on {places}")
            for device in map(str, devices):
                together[device] = together.get(device, 0.0) + part
    with line(findings, f"benchmark={config.benchmark.name}") as found:
        found.append(f"{len(config.benchmark.examples()):,} examples")
    if not all(finding.well for finding in findings):
        return findings
    with line(findings, "a step") as found:
        prepared = prepare(config)
        rows = rows_at_once(config, prepared)
        logits = 4.0 * rows * config.sampler.gen_length * prepared.model.vocabulary
        found.append(f"{rows} rows, {2 * logits / GIB:.2f} GiB of logits and a copy at most, halved if need be")
        for place in [str(pick_device(one.model.device, "model.device")) for one in ranks]:
            together[place] = together.get(place, 0.0) + 2 * logits
    for place, bytes_ in together.items():
        free = free_memory(place)
        fits = (
            "fits"
            if bytes_ < free
            else "does not fit: model.dtype, model.quantization, model.device_map or fewer rows help"
        )
        findings.append(
            Finding(f"on {place}", f"{bytes_ / GIB:.2f} GiB of {free / GIB:.1f} GiB free: {fits}", bytes_ < free)
        )
    return findings
