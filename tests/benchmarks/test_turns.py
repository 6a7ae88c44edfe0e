"""Conversations of several turns, several answers to a question, and open prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import SHARED, samples_of

from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.config.composing import compose
from rws_cli.runs.records import read_samples


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mt_bench_asks_the_second_turn_after_the_first() -> None:
    file = SHARED / "data" / "mt_bench_questions.jsonl"
    if not file.exists():
        pytest.skip("MT-Bench is not available")
    benchmark = compose("benchmark=mt_bench", f"benchmark.path={file}").benchmark
    examples = benchmark.examples()
    assert len(examples) == 160
    assert [(e.id, e.follows) for e in examples[:4]] == [
        ("mt_bench-0", None), ("mt_bench-0.2", "mt_bench-0"), ("mt_bench-1", None), ("mt_bench-1.2", "mt_bench-1")
    ]  # fmt: skip
    assert examples[1].prompt == "Rewrite your previous response. Start every sentence with the letter A."
    assert benchmark.grade(examples[0], "anything") is None


def test_answers_multiply_examples_within_their_conversation() -> None:
    turns = [Example("a", "p", ""), Example("a.2", "q", "", follows="a")]

    class Two(Benchmark):
        def examples(self) -> list[Example]:
            return turns

    assert Two().repeated() == turns
    assert [(e.id, e.question, e.follows) for e in Two(completions=2).repeated()] == [
        ("a/0", "a", None), ("a/1", "a", None), ("a.2/0", "a.2", "a/0"), ("a.2/1", "a.2", "a/1")
    ]  # fmt: skip


def test_a_conversation_is_encoded_whole(llada_folder: Path) -> None:
    prepared = compose(f"model.path={llada_folder}").model.prepare()
    tokens = prepared.tokenizer.convert_ids_to_tokens(prepared.encode("w3", [("w1", "w2")]))
    assert " ".join(tokens) == (
        "<|startoftext|> <|start_header_id|> user <|end_header_id|> w1 <|eot_id|> "
        "<|start_header_id|> assistant <|end_header_id|> w2 <|eot_id|> "
        "<|start_header_id|> user <|end_header_id|> w3 <|eot_id|> <|start_header_id|> assistant <|end_header_id|>"
    )
    base = compose(f"model.path={llada_folder}", "model.chat_template=false").model.prepare()
    assert base.tokenizer.convert_ids_to_tokens(base.encode("w3", [("w1", "w2")])) == ["w1", "w2", "w3"]


@pytest.fixture
def conversations(rws, small: list[str], tmp_path: Path) -> list[str]:
    file = write(tmp_path / "turns.jsonl", [{"turns": [f"w{n}", f"w{n + 10}", f"w{n + 20}"]} for n in range(3)])
    kept = [setting for setting in small if not setting.startswith(("reward", "runtime", "benchmark.limit"))]
    return [
        *kept, "sampler=confidence", "reward=none", "benchmark=mt_bench", f"benchmark.path={file}",
        "benchmark.gen_length=6", "sampler.tokens_per_step=3", "seed=1",
    ]  # fmt: skip


def test_later_turns_see_earlier_answers_whatever_the_batch(rws, conversations: list[str], tmp_path: Path) -> None:
    for size in (1, 2, 50):
        assert rws("run", *conversations, f"runtime.batch_size={size}", f"output={tmp_path / str(size)}").exit_code == 0
    runs = [next((tmp_path / str(size)).glob("*/*/v001")) for size in (1, 2, 50)]
    by_id = [{s["id"]: s for s in samples_of(run)} for run in runs]
    assert by_id[0] == by_id[1] == by_id[2]
    first, second, third = (by_id[0][i] for i in ("mt_bench-1", "mt_bench-1.2", "mt_bench-1.3"))
    assert first["history"] == []
    assert second["history"] == [["w1", first["completion"]]]
    assert third["history"] == [["w1", first["completion"]], ["w11", second["completion"]]]
    assert first["grade"] is None
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    assert (metrics["examples"], metrics["accuracy"]) == (9, None)
    shown = rws("show", str(runs[0])).output
    assert "accuracy" not in shown
    assert "GOD" in shown
    assert "accuracy" not in (runs[0] / "run.log").read_text()
    assert rws("compare", str(runs[0]), str(runs[1])).exit_code == 0


def test_a_conversation_resumes_between_its_turns(rws, conversations: list[str], tmp_path: Path) -> None:
    assert rws("run", *conversations, "output=a").exit_code == 0
    run = next((tmp_path / "a").glob("*/*/v001"))
    whole = samples_of(run)
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    (run / "samples.jsonl").write_text("".join(lines[:4]))  # all first turns, one second
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    assert rws("run", "--resume", str(run)).exit_code == 0
    assert samples_of(run) == whole


def test_a_context_too_small_for_all_turns_is_found_before_decoding(rws, conversations: list[str]) -> None:
    result = rws("run", *conversations, "benchmark.gen_length=120")
    assert result.exit_code == 2
    assert "for each of 3 turns" in result.output


def test_several_answers_differ_and_are_summed_up(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", *small, "sampler=confidence", "benchmark.completions=2")
    assert result.exit_code == 2
    assert "benchmark.completions=2 would all be the same" in result.output
    result = rws("run", *small, "sampler=confidence", "benchmark.completions=2", "sampler.temperature=1.0")
    assert result.exit_code == 0
    run = next(tmp_path.glob("outputs/*/*/v001"))
    samples = read_samples(run)
    assert [s["id"].rpartition("/")[2] for s in samples] == ["0", "1"] * 6
    assert any(a["completion"] != b["completion"] for a, b in zip(samples[::2], samples[1::2], strict=True))
    assert "pass@2" in result.output
    assert rws("grade", str(run)).exit_code == 0


def test_the_verifier_has_no_say_on_open_prompts(rws, conversations: list[str]) -> None:
    result = rws("run", *conversations, "reward=verifier")
    assert result.exit_code == 2
    assert "needs a benchmark that is graded" in result.output


def test_instructions_come_from_alpaca_evals_fields_or_ones_own(tmp_path: Path) -> None:
    for field in ("instruction", "prompt"):
        file = write(tmp_path / f"{field}.jsonl", [{field: "say hi", "output": "hi"}])
        benchmark = compose("benchmark=instructions", f"benchmark.path={file}").benchmark
        assert [e.prompt for e in benchmark.examples()] == ["say hi"]
