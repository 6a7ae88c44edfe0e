"""Few waits for a device: the same tokens as on the CPU, no mixed devices, and at most 8 waits in a step (16 with a search
or gradients, 10 where a step may make a second pass for lookahead), whatever the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rws_cli.config.catalog import choices

pytest.importorskip("torch.utils.backend_registration")
if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip(f"torch {torch.__version__} cannot register a device in Python", allow_module_level=True)

QUICK = ["confidence", "rws"]
NEEDS = {"dawn": "dawn model.attention=eager", "hex": "hex sampler.block_length=4 sampler.search.particles=2"}
SLOW = [
    NEEDS.get(name, name)
    for name in choices("sampler")
    if name not in {"recorded_scale", *QUICK}  # it needs a run to follow
]

CACHES = [
    "confidence runtime.cache=prefix",
    "confidence runtime.cache=dual",
    "rws runtime.cache=prefix runtime.cache_refresh=2",
    "rws runtime.cache=dual",
    "threshold runtime.cache=dual sampler.schedule.threshold=0.9999",  # rows are in different blocks
    "threshold runtime.cache=prefix runtime.cache_refresh=2 sampler.schedule.threshold=0.9999",
    "fk runtime.cache=prefix",
    "entrgi runtime.cache=prefix",
]
BLOCKS = [
    f"{sampler} blocks={size},{anchor},{first_token} runtime.cache={cache}"
    for sampler, size, anchor, first_token, cache in (
        ("confidence", 2, "completion", False, "prefix"),
        ("confidence", 2, "completion", False, "none"),
        ("rws", 4, "sequence", False, "prefix"),
        ("sdar_dynamic", 4, "sequence", False, "prefix"),
        ("llada2_1", 2, "sequence", False, "none"),
        ("fast_dllm_v2", 2, "sequence", True, "prefix"),
        ("fast_dllm_v2", 2, "sequence", True, "none"),
        ("rws", 4, "sequence", True, "prefix"),
        ("autoregressive", 1, "sequence", True, "prefix"),
        ("autoregressive", 1, "sequence", True, "none"),
        ("fk", 4, "sequence", False, "prefix"),
        ("smc", 2, "completion", False, "prefix"),
    )
]
DEVICES = [
    f"{sampler} {places}"
    for sampler in ("rws", "entrgi", "fk")
    for places in ("reward_on=cpu", "model_on=cpu", "model_on=pretend:1")
]
DEVICES.append("rws model_on=cpu runtime.cache=dual")


def check(samplers: list[str]) -> None:
    """In a process of its own, as a device stays registered."""
    script = Path(__file__).with_name("pretend_device.py")
    done = subprocess.run([sys.executable, script, *samplers], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == samplers
    for name, one in found.items():
        assert one["tokens at 16"] == one["cpu"], name
        assert one["tokens at 4"].items() <= one["cpu"].items(), name
        assert len(one["tokens at 4"]) >= 2
        if name.startswith("threshold "):
            assert len({str(steps) for steps, _, _ in one["tokens at 4"].values()}) > 1
        most = 16 if one["searches"] or one["gradients"] else 10 if one["lookahead"] else 8
        assert one["waits at 4"] == one["waits at 16"] <= most, (name, one["lines at 4"], one["lines at 16"])


@pytest.mark.slow
def test_common_samplers_wait_seldom() -> None:
    check(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [CACHES, BLOCKS, DEVICES], ids=["caches", "blocks", "devices"])
def test_caches_block_models_and_two_devices(cases: list[str]) -> None:
    check(cases)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))  # for several processes
def test_all_samplers_wait_seldom(part: int) -> None:
    check(SLOW[part::4])


def test_the_pretend_device_mixes_with_nothing_and_counts() -> None:
    """Without rws: what raises and waits on a GPU does so here."""
    program = """
import torch, pretend_device as p
p.install()
with p.device():
    far = torch.tensor([1.0, 0.0, 3.0]).to("pretend")
    assert far.device.type == "pretend" and (far * 2).sum().device.type == "pretend"
    other = far.to("pretend:1")
    assert other.device.index == 1 and (other + 1).device == other.device and far.new_zeros(3).device == far.device
    mixed = (lambda: far + torch.ones(3), lambda: torch.ones(3)[far.long()], lambda: far + other, lambda: far[other.long()])
    for wrong in (*mixed, lambda: far.numpy()):
        try:
            wrong()
        except (RuntimeError, TypeError):
            continue
        raise SystemExit("no error")
    p.WAITS.clear()
    for waits in (far.tolist, far.nonzero, lambda: far[far > 0], lambda: far[0].item(), far.cpu, lambda: bool(far.any())):
        before = p.WAITS.total()
        waits()
        assert p.WAITS.total() == before + 1, p.WAITS
    before = p.WAITS.total()
    far.to("pretend:1"), far.argsort(), far.cumsum(0), torch.where(far > 0, far, 0.0), far[1:] + 1
    assert p.WAITS.total() == before
    assert (torch.tensor([12]).to("pretend") >> 2).tolist() == [3]
    assert (torch.tensor([1 << 62]).to("pretend") + ((1 << 61) + 1)).near.item() == (1 << 62) + (1 << 61) + 1
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
