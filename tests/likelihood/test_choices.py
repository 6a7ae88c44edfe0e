"""Examples with choices in a run: what is scored, chosen, recorded and resumed; and rws likelihood."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import make_settings, samples_of, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.choices import Choices
from rws_cli.config.composing import compose
from rws_cli.config.identity import config_hash, resolved
from rws_cli.errors import RunError, UsageError
from rws_cli.likelihood import memory
from rws_cli.likelihood.score import LogLikelihood, Pair
from rws_cli.metrics.choices import undecided
from rws_cli.models.base import Denoiser, PreparedModel
from rws_cli.report.html import choice_lines
from rws_cli.runs import batch_decoder
from rws_cli.runs.choices import encode_choices
from rws_cli.runs.records import read_trace

QUESTIONS = [
    {"question": "w1 w2 w3", "choices": ["w4", "w5 w6", "w7 w8 w9"], "answer": 1},
    {"question": "w9 w8", "choices": ["w4 w4", "w5 w5"], "answer": "w4 w4"},
    {"question": "w9", "choices": ["w4", "w3 w2 w1 w0 w9 w8 w7 w6"], "answer": 0},
    {"question": "w11 w12", "choices": ["w30 w31 w32", "w33"], "answer": "0"},
]


@pytest.fixture
def asked(llada_folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return [
        "benchmark=choices", "benchmark.path=q.jsonl", f"model.path={llada_folder}", "model.name=small", "reward=none",
        "sampler=confidence", "likelihood.draws=16",
    ]  # fmt: skip


def bound_slowly(denoiser: Denoiser, context: list[int], ids: list[int]) -> float:
    """The sum over all masks, one pass each."""
    total = 0.0
    for size in range(1, len(ids) + 1):
        for masked in itertools.combinations(range(len(ids)), size):
            row = torch.tensor([[*context, *(denoiser.mask_id if n in masked else t for n, t in enumerate(ids))]])
            with torch.inference_mode():
                logits = denoiser.logits(row, torch.ones_like(row, dtype=torch.bool), row == denoiser.mask_id)
            log_p = logits.double().log_softmax(-1)[range(size), [ids[n] for n in masked]].sum()
            total += float(log_p) / size / math.comb(len(ids), size)
    return total


def test_the_likeliest_choice_is_the_answer(rws, asked: list[str], llada_folder: Path, tmp_path: Path) -> None:
    result = rws("run", *asked, "metric=[choices]")
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs/choices/small-confidence/v001"
    denoiser = make_settings("llada", llada_folder).load()
    for sample, row in zip(samples_of(run), QUESTIONS, strict=True):
        context = denoiser.encode(row["question"])
        found = [(one["text"], one["log_likelihood"], one["standard_error"]) for one in sample["choices"]]
        assert [text for text, _, _ in found] == [f" {choice}" for choice in row["choices"]]
        for (text, log_p, error), one in zip(found, sample["choices"], strict=True):
            ids = denoiser.tokenizer(text, add_special_tokens=False).input_ids
            assert one["tokens"] == len(ids)
            if len(ids) < 5:  # all masks, of which there are no more than 16
                assert log_p == pytest.approx(bound_slowly(denoiser, context, ids), abs=1e-4)
                assert error == 0
            else:
                assert error > 0
        likeliest = max(found, key=lambda one: one[1])[0]
        assert sample["completion"] == likeliest
        answer = row["answer"] if row["answer"] in row["choices"] else row["choices"][int(row["answer"])]
        assert sample["grade"]["correct"] == (likeliest == f" {answer}")
        assert sample["grade"]["extracted"] == likeliest.strip()
        assert sample["measures"]["choices.log_likelihood"] == max(log_p for _, log_p, _ in found)
    exact = samples_of(run)[0]
    assert exact["cost"]["mdm_passes"] == 1 + 3 + 7
    assert [row["step"] for row in read_trace(run)] == [[]] * 4
    for command in ("show", "report", "grade"):
        assert rws(command, str(run)).exit_code == 0
    lines = choice_lines(samples_of(run)[0]).splitlines()
    for line, one in zip(lines, samples_of(run)[0]["choices"], strict=True):
        assert line.startswith("→") == (one["text"] == samples_of(run)[0]["completion"])
        assert f"{one['log_likelihood']:.3f} ± 0.000 {one['text']}" in line


def test_neither_batches_nor_memory_nor_an_interruption_change_a_score(
    rws, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name / "choices/small-confidence/v001" for name in ("alone", "together")]
    assert rws("run", *asked, "output=alone", "runtime.batch_size=1").exit_code == 0
    real = batch_decoder.log_likelihoods

    def short_of_memory(denoiser: Any, pairs: list[Pair], settings: Any, seed: int, rows: int) -> list[LogLikelihood]:
        if rows > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return real(denoiser, pairs, settings, seed, rows)

    with monkeypatch.context() as patched:
        patched.setattr(batch_decoder, "log_likelihoods", short_of_memory)
        result = rws("run", *asked, "output=together", "runtime.batch_size=11")
    assert result.exit_code == 0
    assert "out of memory with 11 rows in a forward pass: continuing with 5" in result.output
    alone, together = map(samples_of, folders)
    assert alone == approximately(together)
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    (folders[0] / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    lines = (folders[0] / "samples.jsonl").read_text().splitlines(keepends=True)
    (folders[0] / "samples.jsonl").write_text("".join(lines[:2]))
    assert rws("run", "--resume", str(folders[0])).exit_code == 0
    assert samples_of(folders[0]) == alone


@pytest.mark.slow
def test_an_example_that_fails_leaves_the_others(
    rws, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch_decoder.log_likelihoods

    def broken(denoiser: Any, pairs: list[Pair], settings: Any, seed: int, rows: int) -> list[LogLikelihood]:
        if any(pair.name == "choices-1" for pair in pairs):
            raise RunError("The model returned logits that are not finite.")
        return real(denoiser, pairs, settings, seed, rows)

    monkeypatch.setattr(batch_decoder, "log_likelihoods", broken)
    assert rws("run", *asked, "likelihood.draws=4").exit_code == 1
    run = tmp_path / "outputs/choices/small-confidence/v001"
    assert [sample["id"] for sample in samples_of(run)] == ["choices-0", "choices-2", "choices-3"]
    assert '"choices-1"' in (run / "failures.jsonl").read_text()


@pytest.mark.slow
def test_several_processes_give_the_same_scores(rws, asked: list[str], tmp_path: Path) -> None:
    for output, backend in (("one", "local"), ("two", "processes")):
        options = [f"output={output}", f"runtime.backend={backend}", "runtime.workers=2", "runtime.batch_size=1"]
        assert rws("run", *asked, *options).exit_code == 0
    one, two = (samples_of(tmp_path / name / "choices/small-confidence/v001") for name in ("one", "two"))
    assert one == two


def approximately(value: Any) -> Any:
    """A nested value whose numbers may differ by rounding."""
    if isinstance(value, dict):
        return {key: approximately(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [approximately(inner) for inner in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_the_plan_bounds_the_passes(rws, asked: list[str], tmp_path: Path) -> None:
    planned = rws("run", *asked, "--dry-run").output
    most = int(re.search(r"MDM passes, at most\D*([\d,]+)", planned)[1].replace(",", ""))
    assert most == (1 + 3 + 7) + (3 + 3) + (1 + 16) + (7 + 1)


@pytest.mark.slow
def test_a_long_choice_is_divided_by_its_length(rws, asked: list[str], tmp_path: Path) -> None:
    assert rws("run", *asked, "likelihood.normalize=bytes", "likelihood.draws=4").exit_code == 0
    for sample in samples_of(tmp_path / "outputs/choices/small-confidence/v001"):
        assert [one["divisor"] for one in sample["choices"]] == [len(one["text"]) - 1 for one in sample["choices"]]
        best = max(sample["choices"], key=lambda one: one["log_likelihood"] / one["divisor"])
        assert best["text"] == sample["completion"]


def test_settings_of_likelihood_count_only_where_there_are_choices(tmp_path: Path) -> None:
    for benchmark, counts in (("arithmetic", False), ("choices", True)):
        values = resolved(compose(f"benchmark={benchmark}"))
        other = values | {"likelihood": values["likelihood"] | {"draws": 16}}
        assert (config_hash(values) != config_hash(other)) == counts
    with pytest.raises(UsageError, match="likelihood.draws=5 must be even, because likelihood.estimator=coupled draws"):
        compose("likelihood.draws=5", "likelihood.estimator=coupled")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (
            {"question": "q", "choices": ["a"], "answer": 1},
            "its answer '1' is neither one of its choices nor the number",
        ),
        ({"question": "q", "choices": [], "answer": 0}, "its field choices is an empty list"),
        ({"question": "q", "choices": ["a", ""], "answer": 0}, "its field choices has an empty text"),
        ({"question": "q", "choices": ["a"]}, "has no field answer or label"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], error: str, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps([row]))
    benchmark = Choices(name="c", kind="choices", gen_length=1, path=str(tmp_path / "q.json"), template="{question}")
    with pytest.raises(UsageError, match=re.escape(error)):
        benchmark.examples()


class Words:
    """A tokenizer whose words begin with their space, and end a text with a token of its own."""

    def __call__(self, text: Any, add_special_tokens: bool = True) -> Any:
        if isinstance(text, list):
            return SimpleNamespace(input_ids=[self(one, add_special_tokens).input_ids for one in text])
        words = [sum(map(ord, word)) for word in re.findall(r" ?\w+|\s", text)]
        return SimpleNamespace(input_ids=[1, *words, 2] if add_special_tokens else words)


def test_spaces_that_end_a_prompt_belong_to_the_choice() -> None:
    model = PreparedModel(
        path="",
        model_class=None,
        arguments={},
        tokenizer=Words(),
        mask_id=0,
        eos_ids=(2,),
        pad_id=2,
        chat_template=False,
    )
    one, two, three = (sum(map(ord, word)) for word in ("one", " two", " three"))
    expected = ([1, one, two, 2], [three])
    assert model.encode_choice("one two", " three") == expected
    assert model.encode_choice("one two ", "three") == expected
    context, merged = model.encode_choice("one two", "three")  # one word with the end of the prompt
    assert (context, merged) == ([1, one, two, 2], [three - ord(" ")])


def test_choices_may_each_have_a_prompt() -> None:
    model = PreparedModel(
        path="",
        model_class=None,
        arguments={},
        tokenizer=Words(),
        mask_id=0,
        eos_ids=(2,),
        pad_id=2,
        chat_template=False,
    )
    apart = encode_choices(model, Example("e", "a", "", choices=(" d", " d"), contexts=("b", "c")))
    b, c, d = (sum(map(ord, word)) for word in ("b", "c", " d"))
    assert apart == [Pair([1, b, 2], [d], "e", False), Pair([1, c, 2], [d], "e", False)]
    [single] = encode_choices(model, Example("e", "b", "", choices=(" d",)))
    assert single == Pair([1, b, 2], [d], "e", True)


def test_memory_that_runs_out_halves_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, lines = [], []

    def scored(denoiser: Any, pairs: list[Pair], settings: Any, seed: int, rows: int) -> list[Any]:
        tried.append((len(pairs), rows))
        if rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return [LogLikelihood(float(pair.context[0]), 0.0, None, None) for pair in pairs]

    monkeypatch.setattr(memory, "log_likelihoods", scored)
    pairs = [Pair([n], [1], "q") for n in range(memory.GROUP + 5)]
    found = memory.score(None, pairs, None, 0, 12, lines.append)
    assert [one.log_p for one in found] == list(range(memory.GROUP + 5))
    assert tried == [(64, 12), (64, 6), (64, 3), (5, 3)]
    assert lines[0] == "out of memory with 12 rows in a forward pass: continuing with 6"
    monkeypatch.setattr(memory, "log_likelihoods", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(RunError, match="Out of memory with a single row"):
        memory.score(None, pairs, None, 0, 1)
    assert memory.automatic_rows(2**19, [Pair([], [1] * 100, "q")]) == 10


def test_undecided_questions() -> None:
    def choice(log_p: float, error: float, divisor: int = 1) -> dict[str, Any]:
        return {"log_likelihood": log_p, "difference_error": error, "divisor": divisor}

    assert undecided([choice(-5, 0.0), choice(-9, 0.5), choice(-5.8, 0.5)])  # 0.8 < 1.96 · 0.5
    assert not undecided([choice(-5, 0.0), choice(-6, 0.5)])
    assert not undecided([choice(-5, 0.0), choice(-5, 0.0)])  # exact
    assert undecided([choice(-10, 0.0, 2), choice(-11, 0.5, 2)])


@pytest.mark.slow
def test_model_perplexity_of_what_was_decoded(rws, small: list[str], llada_folder: Path, tmp_path: Path) -> None:
    options = ["metric=[model_perplexity]", "likelihood.draws=4", "sampler.gen_length=12", "sampler.block_length=12"]
    assert rws("run", *small, *options, "sampler=confidence", "benchmark.limit=2").exit_code == 0
    run = tmp_path / "outputs/sudoku/small-confidence/v001"
    denoiser = make_settings("llada", llada_folder).load()
    settings = compose(*options[1:]).likelihood
    total = count = 0.0
    for sample in samples_of(run):
        ids = denoiser.until_end(sample["tokens"])
        pair = Pair(denoiser.encode(sample["prompt"]), ids, sample["question"], False)
        [score] = memory.score(denoiser, [pair], settings, 0, 1)
        assert sample["measures"]["model_perplexity.completion"] == pytest.approx(
            math.exp(-score.log_p / len(ids)), rel=1e-4
        )
        total, count = total + score.log_p, count + len(ids)
    whole = json.loads((run / "metrics.json").read_text())["measures"]
    assert whole["model_perplexity.corpus"] == pytest.approx(math.exp(-total / count), rel=1e-4)
    assert (
        whole["model_perplexity.corpus_low"] < whole["model_perplexity.corpus"] < whole["model_perplexity.corpus_high"]
    )
    assert rws("measure", str(run), "metric=[model_perplexity]").exit_code == 0


def test_choices_after_solved_questions(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
    benchmark = Choices(
        name="c", kind="choices", gen_length=1, path=str(tmp_path / "q.json"), template="Q: {question}\nA:", shots=1,
        shots_path=str(tmp_path / "q.json"),
    )  # fmt: skip
    second = benchmark.examples()[1]
    assert second.prompt == "Q: w1 w2 w3\nA: w5 w6\n\nQ: w9 w8\nA:"
    assert second.choices == (" w4 w4", " w5 w5")
    assert second.reference == " w4 w4"


@pytest.mark.slow
def test_a_reward_that_nothing_reads_is_mentioned(rws, asked: list[str], tmp_path: Path) -> None:
    result = rws("run", *asked, "reward=verifier", "benchmark.limit=1")
    assert result.exit_code == 0
    assert "choices are scored by likelihood, without sampler=confidence and reward=verifier" in result.output
    refused = rws("calibrate", *asked, "reward=verifier")
    assert refused.exit_code == 2
    assert "benchmark=choices has choices, which no reward scores" in refused.output


# --- rws likelihood ---------------------------------------------------------------------------------------------------


@pytest.fixture
def model(llada_folder: Path) -> list[str]:
    return [f"model.path={llada_folder}", "model.name=small"]


def test_texts_of_a_file(rws, model: list[str], llada_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "w1 w2 w3"}, {"text": " w4 w5", "prompt": "w9"}, {"text": " ".join(f"w{n}" for n in range(7))}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = rws("likelihood", "texts.jsonl", *model, "likelihood.draws=32", "--json")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.output.splitlines()]
    denoiser = make_settings("llada", llada_folder).load()
    for row, one in zip(rows[:2], found, strict=False):
        ids = denoiser.tokenizer(row["text"], add_special_tokens=False).input_ids
        context = denoiser.encode(row["prompt"]) if "prompt" in row else []
        exact = bound_slowly(denoiser, context, ids)
        assert one["log_likelihood"] == pytest.approx(exact, abs=1e-4)
        assert one["perplexity"] == pytest.approx(math.exp(-exact / len(ids)), rel=1e-4)
        assert (one["standard_error"], one["mdm_passes"]) == (0, 2 ** len(ids) - 1)
    last = found[2]
    assert last["interval"] == pytest.approx(
        [last["log_likelihood"] + sign * 1.96 * last["standard_error"] for sign in (-1, 1)]
    )
    exact = bound_slowly(denoiser, [], denoiser.tokenizer(rows[2]["text"]).input_ids)
    assert abs(last["log_likelihood"] - exact) < 4 * last["standard_error"]
    table = rws("likelihood", "texts.jsonl", *model, "likelihood.draws=32").output
    total = sum(one["log_likelihood"] for one in found)
    assert f"{total:,.3f}" in table
    assert "12" in table


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["missing.jsonl"], "FILE=missing.jsonl does not exist"),
        ([""], "The text has no tokens."),
        (["w1 " * 200], "The text has 200 tokens with its prompt; that exceeds the model's context of 128."),
        (["w1", "benchmark=sudoku"], "rws likelihood scores texts: leave out benchmark=…"),
        (["empty.json"], "The file empty.json has no rows."),
        (["no_text.json"], "The file no_text.json, row 1 has no field text or completion (it has a)."),
        (["no_text.json", "--prompt", "w1"], "--prompt does not apply to a file"),
    ],
)
def test_what_cannot_be_scored(rws, model: list[str], arguments: list[str], error: str, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "no_text.json").write_text('[{"a": 1}]')
    result = rws("likelihood", *arguments, *model)
    assert result.exit_code == 2
    assert error in result.output


def test_a_causal_model_gives_the_probabilities_of_transformers(rws, tmp_path: Path) -> None:
    words = ["<end>", "<pad>", *(f"w{n}" for n in range(14))]
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "m")
    word_tokenizer(words, eos_token="<end>", pad_token="<pad>").save_pretrained(tmp_path / "m")
    options = ["model=causal", f"model.path={tmp_path / 'm'}", "model.chat_template=false", "--json"]
    result = rws("likelihood", " w3 w1 w3", "--prompt", "w1 w2", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    with torch.inference_mode():
        log_p = model(torch.tensor([[3, 4, 5, 3, 5]])).logits[0].double().log_softmax(-1)
    assert found["log_likelihood"] == pytest.approx(float(log_p[1, 5] + log_p[2, 3] + log_p[3, 5]), abs=1e-4)
    assert (found["standard_error"], found["mdm_passes"]) == (0, 1)
    refused = rws("likelihood", "w3", "likelihood.cfg_scale=1", *options)
    assert refused.exit_code == 2
    assert "likelihood.cfg_scale=1.0 masks the prompt, but model.kind=causal has no mask token" in refused.output
