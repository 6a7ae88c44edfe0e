"""Data that cannot be asked: empty, not text, or far too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GSM8K = ["benchmark=gsm8k", "sampler.gen_length=8", "benchmark.limit=null"]


def ask(rws, small: list[str], file: Path):
    kept = [setting for setting in small if not setting.startswith("benchmark.")]
    return rws("run", *kept, *GSM8K, f"benchmark.path={file}", "sampler.tokens_per_step=2")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "data.jsonl"),
        (b"\n\n", "data.jsonl"),
        (b'{"question": "\xff\xfe", "answer": "#### 1"}\n', "data.jsonl"),
        (b"PK\x03\x04 not json", "data.jsonl"),
        (b'{"answer": "#### 1"}\n', "question"),
        (json.dumps({"question": "w1 " * 400_000, "answer": "#### 1"}).encode() + b"\n", "exceeds the model's context of 128"),
    ],
    ids=["empty", "blank", "not UTF-8", "a ZIP file", "another field", "1 MB"],
)  # fmt: skip
def test_one_sentence(rws, small: list[str], tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    result = ask(rws, small, file)
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0
    assert not (tmp_path / "outputs").exists()


def test_odd_but_valid_text_is_asked(rws, small: list[str], tmp_path: Path) -> None:
    odd = ["\u0000\u202e\ud83d\ude00 \U0001f600", "<|mdm_mask|> <|endoftext|>", "{braces} {0} %s \\n", ""]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"question": text, "answer": "#### 1"}) + "\n" for text in odd))
    result = ask(rws, small, file)
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs" / "gsm8k" / "small-rws" / "v001"
    assert len((run / "samples.jsonl").read_text().splitlines()) == len(odd)
