"""The memory that loading takes: little more than the weights, in the dtype that is wanted. Run by `make test-slow`.

Safetensors files are mapped into memory, and weights stay views of the mapped file where neither dtype nor shape changes:
then the pages of the file are the weights, and all resident memory is counted (RssFile + RssAnon). Where weights are
rewritten, the pages of the file are counted apart: they are clean, and the kernel drops them when memory is short. So
RssAnon, what only the process holds, is limited too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from large_checkpoints import printed_by, save_llada2, save_qwen3

pytestmark = pytest.mark.slow

LIMIT = 1.3
"""Times the size of the weights that are loaded."""
MEASURE = """
import json, sys
import torch, transformers
from large_checkpoints import Peaks
from rws_cli.config.composing import compose

settings = compose(*sys.argv[1:], "reward=none", "sampler=confidence").model
prepared = settings.prepare()
peaks = Peaks()
model = settings.load(prepared).model
for weight in model.parameters():
    weight.flatten()[::1024].sum().item()  # a page that was never read is not resident yet
size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
print(json.dumps({"size": size} | peaks.over_before()))
"""


def peaks(folder: Path, kind: str, dtype: str) -> dict[str, float]:
    """The peaks of memory while a process of its own loads a model, less what it held before, in sizes of the model."""
    overrides = [
        "model=masked_lm", f"model.kind={kind}", f"model.path={folder}", f"model.dtype={dtype}", "model.device=cpu",
        "model.chat_template=false", "model.mask_token_id=259", "sampler.gen_length=32", "sampler.block_length=32",
    ]  # fmt: skip
    found = printed_by(MEASURE, *overrides)
    assert 0.8e9 < found["size"] < 1.3e9
    return {name: found[name] / found["size"] for name in ("RssAnon", "all")}


VIEWS: dict[str, tuple[Any, str, str]] = {
    "bfloat16": (lambda folder: save_qwen3(folder, 18, torch.bfloat16), "a2d", "bfloat16"),
    "tied head": (lambda folder: save_qwen3(folder, 24, torch.bfloat16, tied=True), "a2d", "bfloat16"),
    "float32": (lambda folder: save_qwen3(folder, 4, torch.float32), "a2d", "float32"),
    "split query, key and value": (lambda folder: save_llada2(folder, 26, torch.bfloat16, 26), "llada2", "bfloat16"),
}
REWRITTEN: dict[str, tuple[Any, str, str]] = {
    "float32 as bfloat16": (lambda folder: save_qwen3(folder, 18, torch.float32), "a2d", "bfloat16"),
    "bfloat16 as float32": (lambda folder: save_qwen3(folder, 4, torch.bfloat16), "a2d", "float32"),
    "experts": (lambda folder: save_llada2(folder, 14, torch.bfloat16, 1), "llada2", "bfloat16"),
}


@pytest.mark.parametrize(("make", "kind", "dtype"), VIEWS.values(), ids=VIEWS)
def test_all_memory_is_little_more_than_the_weights(tmp_path: Path, make: Any, kind: str, dtype: str) -> None:
    make(tmp_path)
    assert 0.9 < peaks(tmp_path, kind, dtype)["all"] < LIMIT


@pytest.mark.parametrize(("make", "kind", "dtype"), REWRITTEN.values(), ids=REWRITTEN)
def test_weights_are_rewritten_one_by_one(tmp_path: Path, make: Any, kind: str, dtype: str) -> None:
    make(tmp_path)
    assert (
        0.6 < peaks(tmp_path, kind, dtype)["RssAnon"] < LIMIT
    )  # experts are 61 % of the weights; the others are views
