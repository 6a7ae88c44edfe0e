"""The tokens that every sampler gives, and the order in which it commits them, are those of commit f1d56ee.

tests/data/tokens.json has for each sampler, benchmark and temperature the settings, and of each example a hash of the
completion's tokens and of the trace's steps and positions. What it leaves out, and why, stands in it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

DATA = json.loads((Path(__file__).parent / "data" / "tokens.json").read_text(encoding="utf-8"))
NOW = {"replay": "recorded_scale", "temperature": "constant_scale"}
"""Samplers that have another name since then."""
for cell in DATA["cells"]:
    cell["sampler"] = NOW.get(cell["sampler"], cell["sampler"])
OWN = "sampler.guidance.how=own"
"""Replays the scales of the example itself; the other scales are means over all 30 examples."""
SAMPLERS = list(dict.fromkeys(cell["sampler"] for cell in DATA["cells"]))


def cells_of(sampler: str) -> list[dict[str, Any]]:
    return [cell for cell in DATA["cells"] if cell["sampler"] == sampler]


def digest(lists: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()[:8]


def hashes(run: Path) -> list[list[str]]:
    """Of each example of a finished run, in order: the hash of its tokens and its trace, and that of its tokens alone."""
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = {row["id"]: row for row in pq.read_table(run / "trace.parquet").to_pylist()}
    decoded = [[sample["tokens"], rows[sample["id"]]["step"], rows[sample["id"]]["position"]] for sample in samples]
    return [[digest(lists), digest(lists[:1])] for lists in decoded]


def decode(rws, cell: dict[str, Any], examples: int, batch: int) -> list[list[str]]:
    """The hashes of the first examples, decoded in batches."""
    settings = [
        f"benchmark={cell['benchmark']}",
        f"benchmark.limit={examples}",
        f"sampler.temperature={cell['temperature']}",
        *cell["settings"],
        f"runtime.batch_size={batch * cell['particles']}",  # rows of a pass, of which each example has as many
    ]
    run = f"outputs/{cell['benchmark']}/tiny-{{}}/latest"
    if cell["sampler"] == "recorded_scale":  # of a run of sampler=rws with the same settings
        result = rws("run", "sampler=rws", *[s for s in settings if s != OWN])
        assert result.exit_code == 0, result.output
        settings.append(f"sampler.guidance.run={run.format('rws')}")
    result = rws("run", f"sampler={cell['sampler']}", *settings)
    assert result.exit_code == 0, result.output
    return hashes(Path(run.format(cell["sampler"])))


def different(cell: dict[str, Any], found: list[list[str]]) -> list[int]:
    """The examples that have another hash than in the data, where "-" is one that is not compared."""
    both = zip(cell["hashes"].split(), found, strict=False)
    return [n for n, (old, new) in enumerate(both) if old not in [*new, "-"]]


@pytest.mark.parametrize("sampler", ["confidence", "rws", "klass", "remdm_conf", "smc"])
def test_tokens_are_those_of_before(rws, sampler: str) -> None:
    """Three examples of one of its cells, in a batch of two and one of one."""
    cells = cells_of(sampler)
    assert not different(cells[0], decode(rws, cells[0], 3, 2))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_tokens_are_those_of_before(rws, sampler: str) -> None:
    wrong = {}
    for cell in cells_of(sampler):
        found = decode(rws, cell, len(cell["hashes"].split()), 8)
        wrong[f"{cell['benchmark']}, T={cell['temperature']}"] = different(cell, found)
    assert not any(wrong.values()), wrong
