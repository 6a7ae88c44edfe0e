"""rws corpus: counts, where they come from, and what the order pc makes of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest


def test_text_and_data_files_are_counted_with_the_models_tokenizer(rws, tmp_path: Path, llada_folder: Path) -> None:
    Path("a.txt").write_text("w1 w2 w2")
    Path("b.jsonl").write_text('{"said": "w2 w3", "n": 1}\n{"said": "w1", "n": 2}\n')
    result = rws("corpus", "a.txt", "b.jsonl", "--field", "said", f"model.path={llada_folder}", "model.name=small")
    assert result.exit_code == 0, result.output
    file = tmp_path / "outputs" / "corpus" / "small" / "v001" / "frequencies.json"
    assert "sampler.pc.frequencies=outputs/corpus/small/v001/frequencies.json" in result.output
    stored = json.loads(file.read_text())
    assert stored["counts"] == {"9": 2, "10": 3, "11": 1}  # w0 is token 8
    assert stored["tokens"] == 6
    source = stored["source"]
    assert source["documents"] == 3
    assert source["files"] == ["a.txt", "b.jsonl"]
    assert source["sha256"] == hashlib.sha256(b"w1 w2 w2\0w2 w3\0w1\0").hexdigest()
    assert (tmp_path / "outputs" / "corpus" / "small" / "latest").resolve() == file.parent.resolve()
    limited = rws("corpus", "a.txt", "b.jsonl", "--field", "said", "--limit", "1", f"model.path={llada_folder}")
    assert limited.exit_code == 0, limited.output

    use = ["run", "sampler=pc", f"model.path={llada_folder}", "model.name=small", "reward=none", "benchmark.limit=1",
           "sampler.tokens_per_step=12"]  # fmt: skip
    assert rws(*use, f"sampler.pc.frequencies={file}").exit_code == 0
    manifest = json.loads(Path("outputs/sudoku/small-pc/v001/manifest.json").read_text())
    assert len(manifest["sources"]["frequencies"]) == 64
    without = rws(*use)
    assert without.exit_code == 2
    assert "count a corpus with rws corpus" in without.output
    other = rws("run", "sampler=pc", f"sampler.pc.frequencies={file}", "benchmark.limit=1")
    assert other.exit_code == 2
    assert "was counted with another tokenizer" in other.output
    Path("bad.json").write_text("[]")
    broken = rws(*use, "sampler.pc.frequencies=bad.json")
    assert broken.exit_code == 2
    assert "was not written by rws corpus" in broken.output


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "Nothing to count"),
        (["nowhere.txt"], 2, "nowhere.txt does not exist"),
        (["rows.jsonl"], 2, "rows.jsonl has no text in the field text (its fields: said): set --field."),
        (["blob.txt"], 2, "blob.txt is not valid UTF-8"),
        (["empty.txt"], 1, "The corpus has no tokens"),
        (["text.txt", "model=llama"], 2, "llama"),
    ],
)
def test_what_cannot_be_counted_is_named(rws, arguments: list[str], code: int, sentence: str) -> None:
    Path("rows.jsonl").write_text('{"said": "w1"}\n')
    Path("blob.txt").write_bytes(b"\xff\xfe\xff")
    Path("empty.txt").write_text("")
    Path("text.txt").write_text("a")
    result = rws("corpus", *arguments)
    assert result.exit_code == code, result.output
    assert sentence in " ".join(result.output.split())
    assert "Traceback" not in result.output
