"""Decode a few GSM8K problems with real models that a laptop runs: needs a network, 8 GB of memory and 5 GB of disk.

    python scripts/smoke_real.py                       # make smoke-real
    python scripts/smoke_real.py --examples 2 --gen-length 64
    python scripts/smoke_real.py --bd3lm FOLDER --mdlm FOLDER --reward FOLDER --data FILE.jsonl   # nothing is downloaded

First says how large the downloads are. An interrupted download resumes. Then, for Qwen3-0.6B with attention by blocks
(bd3lm) and with full attention (mdlm), measures the reward's statistics (rws calibrate) and decodes under confidence and
under Reward-Weighted Sampling, on the CPU. Each command is printed as a user would type it, with its time and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

MODELS = {
    "bd3lm": "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1",
    "mdlm": "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",
    "reward": "Skywork/Skywork-Reward-V2-Qwen3-0.6B",
}
FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt"]
SAMPLERS = ("confidence", "rws")
CALIBRATED = 4
"""Problems on which the reward's statistics are measured, at most."""

Rws = Callable[[list[str]], tuple[float, int]]
"""Runs an rws command; returns its seconds and its peak memory in bytes. Exits if it fails."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, hub in MODELS.items():
        parser.add_argument(f"--{name}", default=hub, help="name on the hub, or a folder")
    parser.add_argument("--data", help="a local file with the problems, in place of openai/gsm8k on the hub")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--gen-length", type=int, default=128)
    parser.add_argument("--tokens-per-step", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", default="outputs/smoke-real")
    arguments = parser.parse_args()
    from huggingface_hub import HfApi, snapshot_download

    paths = {name: getattr(arguments, name) for name in MODELS}
    print_sizes(paths, HfApi())
    for path in paths.values():
        if not os.path.isdir(path):
            snapshot_download(path, allow_patterns=FILES)
    rows = [row for name in ("bd3lm", "mdlm") for row in decode(name, arguments, type_rws)]
    print_table(rows)


def print_sizes(paths: dict[str, str], api: Any) -> None:
    """Print the size of each checkpoint, and of all that are to be downloaded, beside the free disk."""
    total = 0
    for path in paths.values():
        local = os.path.isdir(path)
        size = sum(sizes_here(Path(path)) if local else sizes_there(path, api))
        total += 0 if local else size
        print(f"{size / 1e9:6.2f} GB  {path}{'  (a folder here)' if local else ''}")
    free = shutil.disk_usage(Path.home()).free
    print(f"{total / 1e9:6.2f} GB  to download at most; {free / 1e9:.1f} GB of disk are free", flush=True)
    if total > free:
        raise SystemExit("The disk has no room for that: set HF_HOME to a folder on another one.")


def sizes_here(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.iterdir() if any(fnmatch(file.name, one) for one in FILES)]


def sizes_there(name: str, api: Any) -> list[int]:
    files = api.model_info(name, files_metadata=True).siblings
    return [file.size or 0 for file in files if any(fnmatch(file.rfilename, one) for one in FILES)]


def decode(name: str, arguments: argparse.Namespace, rws: Rws) -> list[dict[str, Any]]:
    """Calibrate the reward, decode under each sampler and compare; returns a row of the table for each command."""
    model = f"qwen3_0_6b_{name}"
    settings = [
        f"model={model}", f"model.path={getattr(arguments, name)}", f"model.dtype={arguments.dtype}", "model.device=cpu",
        "reward=skywork_v2_0_6b", f"reward.path={arguments.reward}", f"reward.dtype={arguments.dtype}", "reward.device=cpu",
        "benchmark=gsm8k", f"sampler.gen_length={arguments.gen_length}", f"sampler.block_length={block(arguments)}",
        f"sampler.tokens_per_step={arguments.tokens_per_step}", "sampler.eos=stop_block", f"output={arguments.output}",
    ]  # fmt: skip
    if arguments.data:
        settings.append(f"benchmark.path={arguments.data}")
    few = f"benchmark.limit={min(CALIBRATED, arguments.examples)}"
    seconds, peak = rws(["calibrate", "sampler=confidence", *settings, few])
    rows: list[dict[str, Any]] = [{"model": model, "what": "calibrate", "seconds": seconds, "peak": peak}]
    folders = []
    for sampler in SAMPLERS:
        seconds, peak = rws(["run", f"sampler={sampler}", *settings, f"benchmark.limit={arguments.examples}"])
        folders.append(Path(arguments.output) / "gsm8k" / f"{model}-{sampler}" / "latest")
        metrics = json.loads((folders[-1] / "metrics.json").read_text(encoding="utf-8"))
        rows.append({"model": model, "what": sampler, "seconds": seconds, "peak": peak, "metrics": metrics})
    rws(["compare", *map(str, folders)])
    return rows


def block(arguments: argparse.Namespace) -> int:
    """The tokens of a block of both models: 32, the size of bd3lm's blocks of attention, or a shorter completion's length."""
    return min(32, arguments.gen_length)


def type_rws(words: list[str]) -> tuple[float, int]:
    print(f"\n$ {shlex.join(['rws', *words])}", flush=True)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "rws_cli", *words])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, peak_bytes(usage)


def peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def print_table(rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{'model':18} {'':12} {'accuracy':>8} {'reward':>8} {'passes':>7} {'tokens':>8} {'seconds':>8} {'peak GiB':>9}"
    )
    for row in rows:
        metrics = row.get("metrics")
        shares = [""] * 4
        if metrics:
            count = metrics["examples"]
            cost = [f"{metrics['cost'][name] / count:.0f}" for name in ("mdm_passes", "mdm_tokens")]
            shares = [f"{100 * metrics['accuracy']:.1f} %", f"{metrics['reward']:.3f}", *cost]
        accuracy, reward, passes, tokens = shares
        print(
            f"{row['model']:18} {row['what']:12} {accuracy:>8} {reward:>8} {passes:>7} {tokens:>8} {row['seconds']:8.1f} "
            f"{row['peak'] / (1 << 30):9.2f}"
        )


if __name__ == "__main__":
    main()
