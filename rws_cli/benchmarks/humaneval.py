"""Functions from docstrings (HumanEval, arXiv 2107.03374), graded by running their tests in a sandbox."""

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.code import (
    CodeBenchmark,
    Names,
    blocks,
    clean,
    continued,
    extract,
    function_name,
    join,
    unfenced,
)
from rws_cli.part import part


@part
class HumanEval(CodeBenchmark):
    """Correct if the function passes its tests."""

    needed = {
        "prompt": fields.text,
        "entry_point": function_name,
        "canonical_solution": fields.text,
        "test": fields.text,
    }

    def reference(self, row: Row) -> str:
        return row["prompt"] + row["canonical_solution"]

    def program(self, row: Row, completion: str) -> str:
        """The completion's function and its tests. A completion without the function is taken to continue the prompt."""
        prompt, name, text = row["prompt"], row["entry_point"], clean(completion)
        code = extract(text, {name})
        if Names(code).rank(name):
            # A complete function may still need the imports and helpers in the prompt.
            code = f"{prompt}    pass\n\n{code}"
        else:
            code = continued(prompt, ["\n".join(blocks(text)), unfenced(text)])
        return join([code, row["test"], f"check({name})", ""])
