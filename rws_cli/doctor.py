"""What this machine has, and whether what is configured fits: found in seconds, before a cluster job finds out."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rws_cli.answering import rows_at_once
from rws_cli.config import classifiers
from rws_cli.errors import UsageError
from rws_cli.models.base import pick_device, pick_dtype
from rws_cli.models.checkpoint import locate, stored_weights
from rws_cli.models.sharded import rank_count
from rws_cli.runs.manifest import versions
from rws_cli.schema import Checkpoint, Config
from rws_cli.task import prepare
from rws_cli.workers.ranks import each

WIDTH = {"8bit": 1, "4bit": 0.5}
"""Bytes a weight, where quantized."""
GIB = 1 << 30


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
    findings += [disk("output", Path(config.output)), disk("hub cache", hub_cache()), hub_token()]
    return [*findings, *needs(config)]


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


def hub_token() -> Finding:
    """Whether there is a token; never which."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    offline = ", and HF_HUB_OFFLINE is set: nothing is downloaded" if HF_HUB_OFFLINE else ""
    return Finding("hub token", ("there is one" if get_token() else "none, which public models do without") + offline)


def checkpoints(config: Config) -> dict[str, Checkpoint]:
    return {"model": config.model, **classifiers(config.reward)}


def needs(config: Config) -> list[Finding]:
    """What the model and the rewards need on their devices, and whether it is free. Ranks have a part of the model and
    all of the rewards each."""
    try:
        shared = config.runtime.backend == "tensor_parallel"
        ranks = each(config, rank_count(config.runtime)) if shared else [config]
    except UsageError as error:
        return [Finding("runtime", str(error), False)]
    findings: list[Finding] = []
    together: dict[str, float] = {}
    for at, node in checkpoints(config).items():
        try:
            devices = [pick_device(checkpoints(one)[at].device, f"{at}.device") for one in ranks]
            weights = stored_weights(locate(node.path, f"{at}.path"), node.revision)
        except UsageError as error:
            findings.append(Finding(f"{at}={node.name}", str(error), False))
            continue
        if weights is None:
            findings.append(Finding(f"{at}={node.name}", f"{node.path} is not on this machine and would be downloaded"))
            continue
        count, stored = weights
        dtype = pick_dtype(node.dtype, devices[0])
        width = WIDTH.get(node.quantization) or (stored / count if dtype == "auto" else dtype.itemsize)  # type: ignore[union-attr]
        part = count * width / (len(ranks) if at == "model" else 1)
        places = ", ".join(dict.fromkeys(map(str, devices)))
        each_rank = f" for each of {len(ranks)} ranks" if shared else ""
        findings.append(Finding(f"{at}={node.name}", f"{count:,} weights, {part / GIB:.2f} GiB{each_rank} on {places}"))
        for device in map(str, devices):
            together[device] = together.get(device, 0.0) + part
    try:
        task = prepare(config)
    except UsageError as error:
        return [*findings, Finding("benchmark", str(error), False)]
    rows = rows_at_once(config, task)
    logits = 4.0 * rows * config.sampler.gen_length * task.prepared.vocabulary
    for place in [str(pick_device(one.model.device, "model.device")) for one in ranks]:
        together[place] = together.get(place, 0.0) + 2 * logits
    findings.append(
        Finding("a step", f"{rows} rows, {2 * logits / GIB:.2f} GiB of logits and a copy at most, halved if need be")
    )
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
