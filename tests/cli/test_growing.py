"""Settings of completions that grow, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import samples_of


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["sampler=confidence", "sampler.start_length=40"], "sampler.start_length=40 is out of range: it must be at most"),
        (["sampler=daedal", "sampler.start_length=null"], "starts with a short completion: set sampler.start_length"),
        (["sampler=daedal", "search=best_of_n", "sampler.temperature=1"], "does not work with sampler.search.kind=best_of_n"),
        (["sampler=daedal", "sampler.eos=stop"], "does not work with sampler.eos=stop"),
        (["sampler=daedal", "benchmark.clues=canvas"], "chooses the length of a completion, but example"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(rws, settings: list[str], sentence: str) -> None:
    result = rws("run", *settings, "benchmark.limit=1", "--dry-run")
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_a_run_grows(rws, tmp_path: Path) -> None:
    """The bundled model ends arithmetic answers, so a completion grows as far as its answer needs."""
    settings = [
        "benchmark=arithmetic",
        "benchmark.limit=4",
        "sampler.gen_length=32",
        "sampler.block_length=8",
        "reward=none",
    ]
    result = rws("run", *settings, "sampler=confidence", "sampler.start_length=8")
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs" / "arithmetic" / "tiny-confidence" / "v001"
    lengths = [len(sample["tokens"]) for sample in samples_of(run)]
    assert all(length % 8 == 0 for length in lengths)
    assert all(sample["length"] < len(sample["tokens"]) or len(sample["tokens"]) == 32 for sample in samples_of(run))
    config = json.loads((run / "manifest.json").read_text())["config"]
    assert config["sampler"]["start_length"] == 8
