"""GSM8K's numbers and MATH's formulas, as models write them."""

from __future__ import annotations

import threading

import pytest
from support import mark_of

from rws_cli.benchmarks.gsm8k import Gsm8k
from rws_cli.benchmarks.math import Math
from rws_cli.config.composing import compose


def gsm8k(reference: object, answer: str, few_shot: bool = False):
    return mark_of(Gsm8k(shots=int(few_shot)), {"answer": reference}, answer)


def math(reference: object, answer: str):
    return mark_of(Math(), {"answer": reference}, answer)


@pytest.mark.parametrize(
    "answer", ["#### −5", "#### –5", "#### - 5", "#### -$5", "#### $-5", "#### **-5**", "It is −5."]
)
def test_a_minus_sign_counts_however_it_is_written(answer: str) -> None:
    assert gsm8k("#### -5", answer).correct
    assert not gsm8k("#### 5", answer).correct
    assert gsm8k("#### −5", "#### -5").correct


@pytest.mark.parametrize("answer", ["Pages 1–5", "10-5", "(10)-5", "- 5 apples"])
def test_a_dash_between_numbers_and_a_bullet_are_no_signs(answer: str) -> None:
    assert gsm8k("#### 5", answer).correct


RUN_ON = "#### 18\n\nQuestion: Tom has 3 cats and gets 2. How many?\nAnswer: 3+2=5\n#### 5"


def test_the_first_marked_number_counts_in_the_few_shot_form_else_the_last() -> None:
    assert gsm8k("#### 18", RUN_ON, few_shot=True).correct
    assert not gsm8k("#### 18", RUN_ON).correct
    assert gsm8k("#### 5", RUN_ON).correct


def test_shots_make_the_few_shot_form(tmp_path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"question": "q", "answer": "#### 18"}\n', encoding="utf-8")
    for shots, correct in ((0, False), (1, True)):
        settings = compose(
            "benchmark=gsm8k", f"benchmark.path={file}", f"benchmark.shots={shots}", f"benchmark.shots_path={file}"
        )
        benchmark = settings.benchmark
        assert benchmark.grade(benchmark.examples()[0], RUN_ON).correct is correct


@pytest.mark.parametrize(
    ("answer", "extracted"),
    [
        ("#### 70,000", "70000"),
        ("#### 160", "160"),
        ("#### -10", "-10"),
        ("#### 160.50", "160.5"),
        ("#### 18.00", "18"),
        ("#### 0", "0"),
        ("#### .5", "0.5"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_numbers_are_extracted_as_a_person_writes_them(answer: str, extracted: str) -> None:
    assert gsm8k("#### 18", answer).extracted == extracted


def test_long_numbers_are_compared_whole() -> None:
    assert not gsm8k("#### 12345678901234567890123456789012", "#### 12345678901234567890123456789013").correct
    assert gsm8k(18, "#### 18").correct  # a number as reference


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        ("3", "\\boxed{2}\n\nWait, I made a mistake.\n\n\\boxed{3}", True),
        ("3", "Step 1: \\boxed{2}\nStep 2: \\boxed{3}", True),
        ("3", "**\\boxed{2}**\n\n**\\boxed{3}**", True),
        ("1,2", "\\boxed{1}\n\nWait, that is wrong.\n\n\\boxed{2}", False),
        ("1,2", "\\boxed{1,2}", True),
        ("3", "$\\boxed{2}$, no, $\\boxed{3}$", True),
        ("3", "\\boxed{3}, that is \\boxed{", True),  # cut off
        ("3", "My answer goes into \\boxed{}: \\boxed{3}. I put it in \\boxed{}.", True),
        ("\\{1,2\\}", "\\boxed{5} or rather \\boxed{\\{1,2\\}}", True),
        ("\\frac{1}{2}", "\\boxed{3}\n\\boxed{\\frac{1}{\\sqrt{4}}}", True),
        (3, "\\boxed{3}", True),
        ("-5", "\\boxed{−5}", True),
        ("5", "\\boxed{−5}", False),
    ],
)
def test_the_last_closed_box_counts(reference: object, answer: str, correct: bool) -> None:
    assert math(reference, answer).correct is correct


@pytest.mark.parametrize(
    "answer",
    [
        "\\boxed{28\\%}", "$\\boxed{28\\%}$", "\\boxed{28%}", "\\boxed{28 \\%}", "\\boxed{28\\ \\%}", "\\boxed{28}",
        "\\boxed{28\\text{ percent}}", "The answer is 28%.", "The answer is 28%", "$28\\%$",
    ],
)  # fmt: skip
@pytest.mark.parametrize("reference", ["28", "28\\%"])
def test_percent_signs_are_dropped_on_both_sides(reference: str, answer: str) -> None:
    assert math(reference, answer).correct
    assert not math(reference.replace("28", "27"), answer).correct


def test_formulas_are_marked_in_any_thread(capfd: pytest.CaptureFixture[str]) -> None:
    grades = []
    thread = threading.Thread(target=lambda: grades.append(math("3", "\\boxed{3}")))
    thread.start()
    thread.join()
    assert grades[0].correct
    assert capfd.readouterr() == ("", "")


def test_a_tower_of_powers_ends_in_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rws_cli.benchmarks.math.SECONDS", 1)
    assert not math("3", "\\boxed{9^{9^{9^9}}}").correct  # endless without the limit
    assert capfd.readouterr() == ("", "")
