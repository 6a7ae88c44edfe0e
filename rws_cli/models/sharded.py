"""Tensor parallelism: each of several processes, the ranks, holds a part of every layer.

Layers are split by transformers' plan for LLaMA and Qwen2: attention by heads, the rest by width, embeddings and output
head by tokens. Within each layer, ranks sum or gather what all of them need. So every rank has the same states, draws the
same tokens, and must take every step together with the others.
"""

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from rws_cli.config.schema import Runtime
from rws_cli.errors import UsageError

RANKS_WITHOUT_GPU = 2


@dataclass(frozen=True)
class Rank:
    """One of `count` processes. meeting: a file that does not exist yet, through which they find each other. seconds: how
    long one waits for another."""

    number: int
    count: int
    meeting: str
    seconds: float


def rank_count(runtime: Runtime) -> int:
    """The number of ranks. Raises UsageError if they would have to share GPUs."""
    import torch

    gpus = torch.cuda.device_count()
    count = runtime.workers or gpus or RANKS_WITHOUT_GPU
    if gpus and count > gpus:
        raise UsageError(f"runtime.workers={count} ranks need a GPU each, and this machine has {gpus}.")
    return count


def check_divides(native: Any, count: int) -> None:
    """Raises UsageError if a model of this configuration cannot be split evenly among this many ranks."""
    sizes = native.num_attention_heads, native.num_key_value_heads, native.intermediate_size
    common = math.gcd(*sizes)
    if common % count:
        allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise UsageError(
            f"{count} ranks cannot share {sizes[0]} attention heads, {sizes[1]} key-value heads and an intermediate size "
            f"of {sizes[2]} evenly: set runtime.workers to one of {allowed}."
        )


def split_among(count: int) -> dict[str, Any]:
    """The arguments of from_pretrained that split a model among this many ranks."""
    if count == 1:
        return {}
    from transformers.distributed import DistributedConfig

    if "tp_size" in {field.name for field in fields(DistributedConfig)}:
        return {"distributed_config": DistributedConfig(tp_size=count)}
    return {"tp_plan": "auto"}  # so in transformers 5.10


@contextmanager
def joined(rank: Rank) -> Iterator[None]:
    """Join the other ranks, which are all on this machine.

    They meet through a file, because a port could be taken by another process and reached from elsewhere. transformers
    would join the ranks itself, but then a rank waits for hours for one that is stuck.
    """
    import torch
    import torch.distributed as ranks

    number, count = str(rank.number), str(rank.count)
    os.environ |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count}  # transformers reads them
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", rank.number)
        torch.cuda.set_device(device)
    ranks.init_process_group(
        "nccl" if device else "gloo",
        init_method=f"file://{rank.meeting}",
        rank=rank.number,
        world_size=rank.count,
        timeout=timedelta(seconds=rank.seconds),
        device_id=device,
    )
    yield
    ranks.destroy_process_group()  # not after an error, when others may be waiting in it
