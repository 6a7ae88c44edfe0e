"""What a benchmark needs of a row is asked before anything is decoded: fields, kinds, and references that it can grade."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rws_cli import registry
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.benchmarks.gsm8k import Gsm8k
from rws_cli.benchmarks.sandbox import Outcome
from rws_cli.config.catalog import choices
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "q", "answer": "#### 1"},
    "math500": {"problem": "q", "answer": "1"},
    "countdown": {"input": "30,100,93", "output": "23"},
    "sudoku4": {"input": "0200\n4302\n3401\n0004", "output": "1243\n4312\n3421\n2134"},
    "keywords": {"words": ["dog", "park"]},
    "humaneval": {"prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    pass\n", "test": "def check(f): pass"},
    "humaneval_infilling": {"prompt": "def f():\n", "suffix": "", "entry_point": "f", "canonical_solution": "    pass\n", "test": "def check(f): pass"},
    "mbpp": {"prompt": "q", "test": ["assert f()"], "code": "def f(): return 1"},
    "mt_bench": {"turns": ["first", "second"]},
    "instructions": {"instruction": "q"},
    "choices": {"question": "q", "choices": ["a", "b"], "answer": 1},
}  # fmt: skip


@cache
def settings_of(name: str) -> Any:
    return compose(f"benchmark={name}").benchmark


def load(folder: Path, name: str, rows: list[dict], **settings: Any) -> DataBenchmark:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_file(name, path, **settings)


def load_file(name: str, path: Path, **settings: Any) -> DataBenchmark:
    allowed = {"allow_code_execution": True} if name in ("humaneval", "humaneval_infilling", "mbpp") else {}
    return replace(settings_of(name), path=str(path), **allowed, **settings)


def doubtful_references(benchmark: DataBenchmark) -> str | None:
    return benchmark.doubtful_references(benchmark.examples())


@pytest.fixture(autouse=True)
def no_sandbox_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rws_cli.benchmarks.sandbox.check_supported", lambda: None)


@pytest.mark.parametrize("absent", ["missing", "null"])
@pytest.mark.parametrize(("name", "field"), [(name, field) for name, row in ROWS.items() for field in row])
def test_a_missing_or_null_field_names_its_row(tmp_path: Path, name: str, field: str, absent: str) -> None:
    bad = {key: value for key, value in ROWS[name].items() if key != field}
    bad = {"other": 1, **bad} if absent == "missing" else bad | {field: None}
    with pytest.raises(UsageError, match=rf"benchmark\.path=.*d\.jsonl, row 2 has no field .*\b{field}\b"):
        load(tmp_path, name, [ROWS[name], bad]).examples()
    assert load(tmp_path, name, [ROWS[name], bad], limit=1).examples()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gsm8k", {"answer": ["18"]}, "answer is a list, not text or a number"),
        ("gsm8k", {"answer": True}, "answer is true or false"),
        ("gsm8k", {"answer": {"value": 1}}, "answer is an object"),
        ("gsm8k", {"question": 12}, "question is a number, not text"),
        ("math500", {"solution": ["a"]}, "solution is a list, not text"),
        ("mt_bench", {"turns": []}, "turns is an empty list"),
        ("mt_bench", {"turns": "first"}, "turns is text, not a list of texts"),
        ("mt_bench", {"turns": ["first", None]}, "not a list of texts"),
        ("mbpp", {"test": 5}, "test is a number, not a list of texts"),
        ("mbpp", {"test": "[assert"}, "test looks like a list but is not a list of texts"),
        ("humaneval", {"entry_point": "f g"}, "entry_point is 'f g', not a function's name"),
        ("countdown", {"input": "30,x"}, "input is '30,x', not whole numbers"),
        ("countdown", {"output": "many"}, "output is 'many', neither a whole number nor equations"),
        ("sudoku4", {"input": "12 34"}, "input is '12 34', not 16 digits"),
        ("keywords", {"words": "dog, park"}, "words is text, not a list of texts"),
    ],
)
def test_a_value_of_another_kind_names_its_row_and_field(tmp_path: Path, name: str, change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=f"row 2 cannot be used: its field .*{words}"):
        load(tmp_path, name, [ROWS[name], ROWS[name] | change]).examples()


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (18, "18"),
        (18.0, "18"),
        (-7, "-7"),
        (0.5, "0.5"),
        (1e22, "1" + 22 * "0"),
        ("18", "18"),
        ("$1,000.50", "$1,000.50"),
    ],
)
def test_numbers_are_answers(tmp_path: Path, answer: Any, reference: str) -> None:
    benchmark = load(tmp_path, "gsm8k", [{"question": "q", "answer": answer}])
    (example,) = benchmark.examples()
    assert example.reference == f"#### {reference}"
    assert benchmark.grade(example, f"so it is {reference}").correct
    assert not benchmark.grade(example, "#### 17").correct
    (example,) = load(tmp_path, "math500", [{"problem": "q", "answer": answer}]).examples()
    assert example.reference == rf"\boxed{{{reference}}}"


def test_a_number_in_a_csv_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("question,answer\na,1\n")
    (example,) = load_file("gsm8k", tmp_path / "d.csv").examples()
    assert (example.row["question"], example.reference) == ("a", "#### 1")


def test_a_solution_is_shown_and_an_answer_alone_suffices(tmp_path: Path) -> None:
    rows = [
        {"problem": "q", "answer": "2", "solution": r"So \boxed{2}."},
        {"problem": "q", "answer": "3", "solution": None},
    ]
    assert [e.reference for e in load(tmp_path, "math500", rows).examples()] == [r"So \boxed{2}.", r"\boxed{3}"]


def test_the_place_of_a_row_is_its_line_too(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('question,answer\n"a\nb",1\n\nc,\n')
    benchmark = load_file("gsm8k", path)
    with pytest.raises(UsageError, match=r"row 2 \(line 5\) has no field answer \(it has question\)"):
        benchmark.examples()


def test_shots_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text('{"question": "s"}\n')
    with pytest.raises(UsageError, match=r"benchmark\.shots_path=.*shots\.jsonl, row 1 has no field answer"):
        load(tmp_path, "gsm8k", [ROWS["gsm8k"]], shots=1, shots_path=str(tmp_path / "shots.jsonl")).examples()


def test_a_task_of_ones_own_that_misses_a_field_names_the_row(tmp_path: Path) -> None:
    class Own(DataBenchmark):
        def names(self, row: dict) -> dict:
            return {"question": row["question"], "sum": row["sum"]}

    (tmp_path / "d.jsonl").write_text('{"question": "q"}\n')
    own = Own(name="own", path=str(tmp_path / "d.jsonl"), template="{question}")
    with pytest.raises(UsageError, match=r"row 1 cannot be used: KeyError: 'sum'"):
        own.examples()


def test_no_rows_are_said(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("question,answer\n")
    with pytest.raises(UsageError, match=r"d\.csv has no rows"):
        load_file("gsm8k", tmp_path / "d.csv").examples()


RIGHT = {"countdown": "30-(100-93)", "keywords": "A dog ran through the park."}


@pytest.mark.parametrize("name", [name for name in choices("benchmark") if name != "lm_eval"])  # tests/test_lm_eval.py
def test_every_benchmark_keeps_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ids are unique, a smaller limit sees the same first examples, and only an open-ended one grades nothing."""
    monkeypatch.setattr("rws_cli.benchmarks.sandbox.run", lambda *_: Outcome(True, ""))
    if name in ROWS:
        few, all_ = (load(tmp_path, name, [ROWS[name]] * 3, limit=limit) for limit in (2, None))
    elif name == "prompt":
        few = all_ = compose("benchmark=prompt", "benchmark.text=hello").benchmark
    else:
        few, all_ = (compose(f"benchmark={name}", f"benchmark.limit={limit}").benchmark for limit in (2, 3))
    facts, examples = registry.available("benchmark")[all_.kind].facts, all_.examples()
    assert (facts["version"], facts["open_ended"]) == (all_.version, all_.open_ended)
    assert len({example.id for example in examples}) == len(examples)
    assert few.examples() == examples[: len(few.examples())]
    for example in examples:
        grade = all_.grade(example, example.reference or RIGHT.get(name, ""))
        assert grade is None if all_.open_ended else grade.correct and grade.partial == 1.0
        assert all_.open_ended or facts["runs_programs"] or not all_.grade(example, "").correct


PARIS = {"question": "capital of france?", "answer": "Paris"}


def test_references_of_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"gsm8k grades every reference in .*d\.jsonl as wrong \(row 1: 'Paris'.*format"
    ):
        doubtful_references(load(tmp_path, "gsm8k", [PARIS, PARIS]))
    wrong = ROWS["sudoku4"] | {"output": "1111\n2222\n3333\n4444"}
    with pytest.raises(UsageError, match="grades every reference"):
        doubtful_references(load(tmp_path, "sudoku4", [wrong]))


def test_some_references_that_cannot_be_right_are_one_warning(tmp_path: Path) -> None:
    rows = [ROWS["gsm8k"], PARIS, ROWS["gsm8k"], {"question": "q", "answer": ""}]
    warning = doubtful_references(load(tmp_path, "gsm8k", rows))
    assert warning is not None
    assert "grades 2 of 4 references" in warning
    assert "row 2: 'Paris'; row 4: ''" in warning
    assert doubtful_references(load(tmp_path, "gsm8k", rows, limit=1)) is None
    with pytest.raises(UsageError, match="grades every reference"):
        doubtful_references(load(tmp_path, "gsm8k", rows[1:], limit=1))


def test_a_marker_that_raises_does_not_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gsm8k, "grade", lambda self, example, answer: 1 / 0)
    with pytest.raises(UsageError, match="grades every reference"):
        doubtful_references(load(tmp_path, "gsm8k", [ROWS["gsm8k"]]))


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "mt_bench", "instructions"])
def test_programs_and_open_questions_are_not_asked_for_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rws_cli.benchmarks.sandbox.run", lambda *_: pytest.fail("a program was run"))
    assert doubtful_references(load(tmp_path, name, [ROWS[name]])) is None


def test_a_dry_run_refuses_and_warns_alike(rws, small: list[str], tmp_path: Path) -> None:
    settings = [s for s in small if not s.startswith("benchmark.")]
    settings += ["benchmark=gsm8k", "benchmark.path=d.jsonl", "sampler.gen_length=8"]
    for rows, code, words in [
        ([PARIS], 2, "grades every"),
        ([PARIS, ROWS["gsm8k"]], 0, "grades 1 of 2"),
        ([{"question": "a"}], 2, "row 1 has no field answer"),
    ]:
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = rws("run", "--dry-run", *settings)
        assert result.exit_code == code, result.output
        assert words in " ".join(result.output.split())
