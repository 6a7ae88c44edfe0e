"""Functions from docstrings (HumanEval, arXiv 2107.03374), graded by running their tests in a sandbox."""

from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.code import CodeBenchmark, Names, blocks, clean, continued, extract, join, unfenced
from rws_cli.part import part


def function_name(value: Any) -> str:
    if not fields.text(value).isidentifier():
        raise ValueError(f"is {value!r}, not a function's name")
    return value


@part
class HumanEval(CodeBenchmark):
    needed = {
        "prompt": fields.text,
        "entry_point": function_name,
        "canonical_solution": fields.text,
        "test": fields.text,
    }

    def reference(self, row: Row) -> str:
        return row["prompt"] + row["canonical_solution"]

    def program(self, row: Row, answer: str) -> str:
        """The answer's function with its tests; an answer that does not define it is taken to go on from the prompt."""
        prompt, name, text = row["prompt"], row["entry_point"], clean(answer)
        code = extract(text, {name})
        if Names(code).rank(name):
            # A whole function may still need the prompt's imports and helpers, which it then only repeats.
            code = f"{prompt}    pass\n\n{code}"
        else:
            code = continued(prompt, ["\n".join(blocks(text)), unfenced(text)])
        return join([code, row["test"], f"check({name})", ""])
