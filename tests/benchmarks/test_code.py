"""HumanEval and MBPP: how a program is read off an answer, and the published solutions."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support import SHARED

from rws_cli.benchmarks import code, jail, load_benchmark
from rws_cli.config import compose
from rws_cli.errors import UsageError

DATA = SHARED / "data"
needs_sandbox = pytest.mark.skipif(not jail.landlock_version(), reason="this kernel has no Landlock")
ROW = {
    "prompt": 'import math\n\n\ndef root(x: float) -> float:\n    """The square root."""\n',
    "entry_point": "root",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}


def load(name: str, path: Path):
    settings = compose(f"benchmark={name}", f"benchmark.path={path}", "benchmark.allow_code_execution=true")
    return load_benchmark(settings.benchmark)


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "file", "rows", "known"),
    [
        ("humaneval", "humaneval.jsonl", 164, []),
        # Row 356 tests names that only the data set's test_setup_code defines, a field which this copy left out.
        ("mbpp", "mbpp_test.jsonl", 500, ["mbpp-356"]),
    ],
)
def test_the_published_solutions_pass(name: str, file: str, rows: int, known: list[str]) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not at hand")
    benchmark = load(name, DATA / file)
    examples = benchmark.examples()
    assert len(examples) == rows
    assert [e.id for e in examples if not benchmark.mark(e, e.reference).correct] == known
    assert not any(benchmark.mark(e, other.reference).correct for e, other in itertools.pairwise(examples[:9]))


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("    return math.sqrt(x)\n", True),
        ("Sure!\n```python\ndef root(x):\n    return math.sqrt(x)\n```\nThis works.", True),
        ("```\nimport cmath\ndef root(x):\n    return abs(cmath.sqrt(x))", True),
        ("```python\ndef root(x):\n    return 1\n```\nor rather\n```python\ndef root(x):\n    return x / 2\n```", True),
        ("    return x * x\n", False),
        ("I do not know.", False),
        ("", False),
        ("    import sys; sys.exit(0)\n", False),
    ],
)
def test_programs_are_read_off_answers(answer: str, passes: bool) -> None:
    settings = compose("benchmark=humaneval", "benchmark.allow_code_execution=true").benchmark
    mark = code.mark_program(code.humaneval_program(ROW, answer), settings)
    assert mark.correct is passes, mark


def test_setup_code_of_the_hubs_rows_is_used() -> None:
    row = {"text": "Say a.", "code": "", "test_list": ["assert f() == a"], "test_setup_code": "a = 1"}
    assert code.mbpp_names(row)["task"] == "Say a."
    assert code.mbpp_program(row, "def f(): return 1") == "def f(): return 1\na = 1\nassert f() == a\n"


def test_programs_run_only_where_they_may() -> None:
    with pytest.raises(UsageError, match="allow_code_execution=true"):
        load_benchmark(compose("benchmark=humaneval").benchmark)
