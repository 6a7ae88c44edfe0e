"""Programs: HumanEval and MBPP. An answer is right if its tests run to their end in the sandbox."""

from __future__ import annotations

import re
from typing import Any

from rws_cli.benchmarks import sandbox
from rws_cli.benchmarks.base import Mark, Row
from rws_cli.schema import CodeBenchmark


def humaneval_names(row: Row) -> dict[str, Any]:
    return {"prompt": row["prompt"], "entry_point": row["entry_point"]}


def humaneval_program(row: Row, answer: str) -> str:
    """The answer's function with its tests; an answer that does not define it is taken to go on from the prompt."""
    code = extract(answer)
    whole = re.search(rf"^\s*def {re.escape(row['entry_point'])}\b", code, re.MULTILINE)
    # A whole function may still need the prompt's imports and helpers, which it then only repeats.
    start = row["prompt"] if not whole else row["prompt"] + "    pass\n\n"
    return f"{start}{code}\n\n{row['test']}\n\ncheck({row['entry_point']})\n"


def mbpp_tests(row: Row) -> list[str]:
    return row["test_list"] if "test_list" in row else row["test"]


def mbpp_names(row: Row) -> dict[str, Any]:
    return {"task": row["text"] if "text" in row else row["prompt"], "tests": "\n".join(mbpp_tests(row))}


def mbpp_program(row: Row, answer: str) -> str:
    setup = row.get("test_setup_code") or ""
    return "\n".join([extract(answer), setup, *mbpp_tests(row), ""])


def extract(answer: str) -> str:
    """The last code block of an answer, or all of it if it has none; a block left open ends with the answer."""
    blocks = re.findall(r"```(?:[Pp]ython|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return blocks[-1] if blocks else answer


def mark_program(program: str, settings: CodeBenchmark) -> Mark:
    """Run a program to mark it; `extracted` says why it did not pass."""
    outcome = sandbox.run(program, settings.seconds, settings.memory_mb << 20)
    return Mark(outcome.passed, float(outcome.passed), outcome.reason, "sandbox")
