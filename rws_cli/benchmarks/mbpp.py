"""Small Python tasks (MBPP, arXiv 2108.07732), graded by running their tests in a sandbox."""

from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.code import CodeBenchmark, Names, extract, join
from rws_cli.part import part


@part
class Mbpp(CodeBenchmark):
    needed = {"text|prompt": fields.text, "test_list|test": fields.some_statements, "code": fields.text}
    optional = {"test_setup_code": fields.text, "test_imports": fields.statements}

    def names(self, row: Row) -> dict[str, Any]:
        return {"task": row["text"], "tests": "\n".join(row["test_list"])}

    def reference(self, row: Row) -> str:
        return row["code"]

    def program(self, row: Row, answer: str) -> str:
        """The answer's code, and the tests behind it with what they need."""
        tests = [*row.get("test_imports", []), row.get("test_setup_code") or "", *row["test_list"]]
        return join([extract(answer, Names("\n".join(tests)).needed), *tests, ""])
