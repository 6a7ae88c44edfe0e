"""HumanEval and MBPP: how a program is read off an answer, and the published solutions."""

from __future__ import annotations

import itertools
import json
import textwrap
from pathlib import Path

import pytest
from support import SHARED, grade_of

from rws_cli.benchmarks import code, jail
from rws_cli.benchmarks.humaneval import HumanEval
from rws_cli.benchmarks.mbpp import Mbpp
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError

DATA = SHARED / "data"
needs_sandbox = pytest.mark.skipif(not jail.landlock_version(), reason="this kernel has no Landlock")
ROW = {
    "prompt": 'import math\n\n\ndef root(x: float) -> float:\n    """The square root."""\n',
    "entry_point": "root",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}


def load(name: str, path: Path):
    return compose(f"benchmark={name}", f"benchmark.path={path}", "benchmark.allow_code_execution=true").benchmark


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "file", "rows", "known"),
    [
        pytest.param("humaneval", "humaneval.jsonl", 164, [], marks=pytest.mark.slow),
        # Row 356 tests names that only the data set's test_setup_code defines, a field which this copy left out.
        pytest.param("mbpp", "mbpp_test.jsonl", 500, ["mbpp-356"], marks=pytest.mark.slow),
    ],
)
def test_the_published_solutions_pass(name: str, file: str, rows: int, known: list[str]) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not available")
    benchmark = load(name, DATA / file)
    examples = benchmark.examples()
    assert len(examples) == rows
    assert [e.id for e in examples if not benchmark.grade(e, e.reference).correct] == known
    assert not any(benchmark.grade(e, other.reference).correct for e, other in itertools.pairwise(examples[:9]))


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
    grade = grade_of(HumanEval(), ROW, answer)
    assert grade.correct is passes, grade


WHOLE = "import math\n\ndef root(x):\n    y = math.sqrt(x)\n    return y\n"
BLOCK = f"```python\n{WHOLE}```"
BODY = "    y = math.sqrt(x)\n    return y\n"
WRONG = "```python\ndef root(x):\n    return -1\n```"


def passes(program: str) -> bool:
    """Whether a harmless program runs to its end, here and now."""
    try:
        exec(compile(program, "answer.py", "exec"), {"__name__": "answer"})
    except Exception:
        return False
    return True


def humaneval(answer: str) -> bool:
    return passes(HumanEval().program(ROW, answer))


def indented(text: str, by: str) -> str:
    return textwrap.indent(text, by, lambda line: True)


@pytest.mark.parametrize(
    "answer",
    [
        f"{BLOCK}\nOutput:\n```text\nTrue\n```\nIt prints True.",
        f"Install:\n```bash\npip install numpy\n```\nThen:\n{BLOCK}",
        f"{BLOCK}\nRun:\n```bash\npython a.py\n```\n",
        f"{BLOCK}\nExample:\n```python\nprint(root(4))\n```",
        f"{BLOCK}\nExample:\n```python\n>>> root(4)\n2.0\n```",
        f"{BLOCK}\nExample:\n```python\nfrom solution import root\nroot(4)\n```",
        f"{BLOCK}\nOutput:\n```\nTrue\n```",
        f"{BLOCK}\nOutput:\n```\nroot = 2.0\n```",
        f"{BLOCK}\nor, cut off:\n```python\ndef root(x):\n    return math.sqrt(",
        f"1. Code:\n{indented(BLOCK, '   ')}\n2. Done.",
        f"- a\n  - Code:\n\n{indented(BLOCK, '    ')}\n",
        indented(BLOCK, "> "),
        f"````python\n{WHOLE}````\nDone.",
        f"```python\n{WHOLE}",
        f"<answer>\n{BLOCK}\n</answer>",
        BLOCK.replace("\n", "\r\n"),
        BLOCK.replace("    ", "\u00a0   "),
        f"\ufeff{WHOLE}",
        f" {WHOLE}",
    ],
)
def test_the_function_is_found_whatever_stands_around_its_block(answer: str) -> None:
    assert humaneval(answer)
    assert not humaneval(answer.replace("return y", "return -1"))


@pytest.mark.parametrize(
    "info",
    ["python", " python", "python3", "Python", "PYTHON", "{python}", "{.python}", 'python title="a"', "py", "py3", ""],
)
@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_python_blocks_are_known_by_their_first_word(fence: str, info: str) -> None:
    assert humaneval(f"Sure:\n{fence}{info}\n{WHOLE}{fence}\nDone.")


def test_fences_are_paired_as_in_markdown() -> None:
    assert code.extract("```bash\nx\n```\nThen:\n```python\ny\n```") == "y\n"
    assert code.extract("````python\n```\ny\n````") == "```\ny\n"
    assert code.extract("```python\n'''\n    ```\n'''\n```\nz") == "'''\n    ```\n'''\n"
    assert code.extract("```python\nx\n~~~\n```") == "x\n~~~\n"


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nimport math\n\ndef power(x, e):\n    return math.pow(x, e)\n```\nand\n"
        "```python\ndef root(x):\n    return power(x, 0.5)\n```",
        "```python\ndef root(x):\n    return power(x, HALF)\n```\nwith\n"
        "```python\ndef power(x, e):\n    return x**e\n\nHALF = 0.5\n```",
        f"{WRONG}\nThat is wrong:\n```python\ndef root(x):\n    return cmath.sqrt(x).real\n```\nwith\n```\nimport cmath\n```",
    ],
)
def test_what_the_function_needs_comes_from_other_blocks(answer: str) -> None:
    assert humaneval(answer)


def test_the_last_block_that_defines_the_function_counts() -> None:
    assert humaneval(f"{WRONG}\nor rather\n{BLOCK}")
    assert not humaneval(f"{BLOCK}\nor rather\n{WRONG}")


@pytest.mark.parametrize(
    "answer",
    [
        f"Here is the function:\n\n{WHOLE}\nThis works. Enjoy!",
        f"Sure\n{WHOLE}Done\n\nComplexity: O(1)",
        f"{WHOLE}```",
        f"{WHOLE}```\nThis function works.\n```\nprint(root(4))\n```",
        f"[BEGIN]\n{WHOLE}[DONE]",
        f"The code:\n\nONE = 1\n{WHOLE.replace('return y', 'return ONE * y')}\nThat is it.",
        f"```text\n{WHOLE}```",
        f"{WHOLE}\n>>> root(4)\n2.0",
    ],
)
def test_code_is_found_among_prose(answer: str) -> None:
    assert humaneval(answer)


@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        BODY.strip(),  # as a model answers whose text is stripped
        textwrap.dedent(BODY),
        f"```python\n{BODY}```",
        f"The body:\n```python\n{BODY.strip()}\n```\nDone.",
        f"{BODY}```\nThis works.",
        f"{BODY}\nThis works.",
        f"{BODY}\n\nprint(root(4))\n\ndef cut_off(",
    ],
)
def test_an_answer_may_go_on_from_the_prompt(answer: str) -> None:
    assert humaneval(answer)


@pytest.mark.parametrize(
    "future", ["from __future__ import annotations", "from __future__ import (\n    annotations,\n)"]
)
def test_imports_from_the_future_come_first(future: str) -> None:
    later = "def root(x: Later):\n    return math.sqrt(x)\n"
    for answer in (f"{future}\n{WHOLE}", f"```python\nimport math\n```\n```python\n{future}\n{later}```"):
        assert humaneval(answer)


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\nclass Solution:\n{indented(WHOLE, '    ')}\n```",
        "```python\nasync def root(x):\n    return x ** 0.5\n```",
        "```python\nclass root:\n    def __init__(self, x): pass\n```",
        '"""',
        BLOCK[:-20],
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_other_definitions_of_the_name_do_not_pass(answer: str) -> None:
    assert not humaneval(answer)


FORMS = {
    "example usage": "```python\n{0}\n```\nExample:\n```python\nprint('done')\n```",
    "output": "```python\n{0}\n```\nOutput:\n```\nTrue\n```",
    "python3": "```python3\n{0}\n```",
    " python": "``` python\n{0}\n```",
    "prose": "Here is the solution:\n\n{0}\n\nIt goes through all cases.",
    "closing fence": "{0}\n```\nIt goes through all cases.",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")  # of the published programs
def test_published_solutions_pass_in_the_forms_of_chat_models(form: str) -> None:
    for name, start in (("humaneval", 0), ("mbpp_test", 2)):
        file = DATA / f"{name}.jsonl"
        if not file.exists():
            pytest.skip(f"{file.name} is not available")
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()[start:164:4]):
            solution = row["prompt"] + row["canonical_solution"] if name == "humaneval" else row["code"]
            answer = FORMS[form].format(solution)
            if name != "humaneval":
                row["test_list"] = row.pop("test")
            program = HumanEval().program(row, answer) if name == "humaneval" else Mbpp().program(row, answer)
            assert passes(program), (row["task_id"], program)


def mbpp(answer: str, **row: object) -> bool:
    return passes(Mbpp().program(row, answer))


def test_mbpps_function_is_the_one_that_the_tests_call() -> None:
    tests = ["assert set(largest([3, 1])) == {3}", "assert sorted(largest([1])) == [1]"]
    answer = "```python\ndef largest(xs):\n    return {top(xs)}\n```\n```python\ndef top(xs):\n    return max(xs)\n```"
    assert mbpp(f"{answer}\n```python\nprint(sorted([1]))\n```\n```\n[3]\n```", test_list=tests)
    assert mbpp(
        "class Stack:\n    def pop(self): return 1\n\nHope this helps!", test_list=["assert Stack().pop() == 1"]
    )
    assert not mbpp("I do not know.", test_list=tests)


SPHERE = "def volume_sphere(r):\n    return 4/3*3.141592653589793*r**3"
VOLUME = "assert math.isclose(volume_sphere(10), 4188.790204786391, rel_tol=0.001)"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "volume of a sphere", "test_imports": ["import math"], "test_list": [VOLUME]},  # sanitized
        {"text": "volume of a sphere", "test_setup_code": "import math", "test_list": [VOLUME]},  # full
        {"text": None, "prompt": "volume of a sphere", "test": f"import math\n{VOLUME}"},
        {"prompt": "volume of a sphere", "test_imports": "['import math']", "test_list": f"[{VOLUME!r}]"},  # from CSV
    ],
)
@needs_sandbox
def test_mbpps_tests_have_what_they_import(tmp_path: Path, fields: dict[str, object]) -> None:
    file = tmp_path / "mbpp.jsonl"
    file.write_text(json.dumps({"code": "c", **fields}) + "\n", encoding="utf-8")
    (example,) = load("mbpp", file).examples()
    assert "volume of a sphere" in example.prompt
    assert VOLUME in example.prompt
    assert passes(Mbpp().program(example.row, SPHERE))
    assert not passes(Mbpp().program(example.row, "def volume_sphere(r): return 0"))


def test_setup_code_of_the_hubs_rows_is_used() -> None:
    row = {"text": "Say a.", "code": "", "test_list": ["assert f() == a"], "test_setup_code": "a = 1"}
    assert Mbpp().names(row)["task"] == "Say a."
    assert Mbpp().program(row, "def f(): return 1") == "def f(): return 1\na = 1\nassert f() == a\n"


def test_programs_run_only_where_they_may() -> None:
    with pytest.raises(UsageError, match="allow_code_execution=true"):
        compose("benchmark=humaneval").benchmark.examples()
