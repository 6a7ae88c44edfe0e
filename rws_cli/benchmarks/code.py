"""Shared by benchmarks that run programs: extract code from a completion, and run it with its tests."""

import ast
import builtins
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rws_cli.benchmarks import fields, sandbox
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.errors import UsageError
from rws_cli.part import setting

# Models write code right after tags such as <answer>, which CommonMark would parse as HTML.
MARKDOWN = MarkdownIt("commonmark").disable(["html_block", "inline"])
PYTHON = re.compile(r"[{.\s]*(?:i?python|py)[\d.]*(?![a-z])|\s*$", re.IGNORECASE)
"""Info strings of Python blocks: none, python, py3, {.python}, python title="a", …"""
STATEMENT = re.compile(r"(?:async\s+def|def|class|from|import)\s|@|[A-Za-z_]\w*\s*(?::.*)?=")
"""The start of code in the middle of prose."""
INVISIBLE = {0xFEFF: None, 0x200B: None, 0xA0: " ", 0x202F: " ", 0x3000: " "}
"""A byte order mark, and spaces that Python does not accept as spaces."""
MOST_STARTS, MOST_CUTS = 50, 8
"""Limits on the time that extraction takes; only adversarial completions reach them."""
FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|.*)$", re.MULTILINE)


@dataclass
class CodeBenchmark(DataBenchmark):
    """A benchmark of programming tasks. A completion is correct if its tests run to the end in a sandbox (see sandbox.py);
    `extracted` in its grade is the reason if not. A part implements `program`."""

    runs_programs = True
    version = 2

    allow_code_execution: bool = setting(
        "allow running generated programs, in a sandbox, to grade them", False, asks=False
    )
    seconds: float = setting("processor time limit per program, in seconds", 5.0, above=0.0, max=3600.0, asks=False)
    memory_mb: int = setting("memory limit per program, in MiB", 1024, min=64, max=1048576, asks=False)

    def program(self, row: Row, completion: str) -> str:
        """The code in a completion, followed by tests that raise if it is wrong."""
        raise NotImplementedError

    def examples(self) -> list[Example]:
        if not self.allow_code_execution:
            raise UsageError(
                f"benchmark={self.name} runs programs that a model writes, in a sandbox: "
                "allow this with benchmark.allow_code_execution=true."
            )
        sandbox.check_supported()
        return super().examples()

    def grade(self, example: Example, completion: str) -> Grade:
        outcome = sandbox.run(self.program(example.row, completion), self.seconds, self.memory_mb << 20)
        return Grade(outcome.passed, float(outcome.passed), outcome.reason, "sandbox")

    def doubtful_references(self, examples: list[Example]) -> None:
        """None, because running all references would take too long."""


def function_name(value: Any) -> str:
    if not fields.text(value).isidentifier():
        raise ValueError(f"is {value!r}, not a function's name")
    return value


def join(parts: Iterable[str]) -> str:
    """The parts as one program, with imports from __future__ moved to the top, as Python requires."""
    program = "\n".join(parts)
    return "\n".join([*dict.fromkeys(FUTURE.findall(program)), FUTURE.sub("", program)])


# --- code in a completion -----------------------------------------------------------------------------------------


class Names:
    """The names that a piece of code binds and needs at its top level; none if it is not Python."""

    def __init__(self, code: str) -> None:
        self.needed: set[str] = set()
        self._bound: dict[str, int] = {}
        if _error_line(code) is not None:
            return
        with _quiet():
            top = symtable.symtable(code, "answer.py", "exec")
        for symbol in top.get_symbols():
            # A function ranks above a variable of the same name, and both rank above `from solution import name`.
            rank = 3 * symbol.is_namespace() or 2 * symbol.is_assigned() or 1 * symbol.is_imported()
            if rank:
                self._bound[symbol.get_name()] = rank
        tables = [top]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            used = [s for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())]
            self.needed |= {s.get_name() for s in used if s.get_name() not in self._bound}
        self.needed -= set(dir(builtins))

    def rank(self, name: str) -> int:
        """How the code binds a name: 3 as a function or class, 2 as a variable, 1 by an import, 0 not at all."""
        return self._bound.get(name, 0)


def extract(completion: str, wanted: Collection[str] = ()) -> str:
    """The code in a completion that defines the wanted names, with the definitions that it needs from elsewhere in it.

    Taken from the last Python blocks that define them, else from Python in the middle of prose; else all Python blocks, or
    the whole completion if it has none. Fences are paired as in CommonMark, so an open block ends with the completion.
    """
    text = clean(completion)
    readable = [_readable(block) for block in blocks(text)] or [_without_idle(_readable(text))]
    code = _defining(readable, wanted)
    if wanted and not code:
        code = _defining([piece for part in (text, *readable) for piece in _pieces(part)], wanted)
    return code or "\n".join(readable)


def clean(completion: str) -> str:
    """A completion without invisible characters, and with Unix line breaks."""
    return completion.translate(INVISIBLE).replace("\r\n", "\n").replace("\r", "\n")


def _fences(text: str) -> list[Token]:
    return [token for token in MARKDOWN.parse(text) if token.type == "fence"]


def blocks(text: str) -> list[str]:
    """The Python blocks that are not empty."""
    return [token.content for token in _fences(text) if PYTHON.match(token.info) and token.content.strip()]


def unfenced(text: str) -> str:
    """The lines outside all fences."""
    lines = text.split("\n")
    for token in _fences(text):
        start, end = token.map or (0, 0)
        lines[start:end] = [""] * (end - start)
    return "\n".join(lines)


def _readable(code: str) -> str:
    """The code, or if it is not valid Python, a dedented form of it or what precedes a fence in it that is."""
    forms = (code, textwrap.dedent(code), code.strip(), code.partition("```")[0])
    return next((form for form in forms if form.strip() and _error_line(form) is None), code)


def _defining(pieces: list[str], wanted: Collection[str]) -> str:
    """The pieces that define wanted names, and those that define what these need, in order; "" if none does."""
    names = [Names(piece) for piece in pieces]
    missing, chosen = set(wanted), set[int]()
    while missing:
        name = missing.pop()
        best = max(range(len(pieces)), key=lambda n: (names[n].rank(name), n), default=None)
        if best is not None and names[best].rank(name) and best not in chosen:
            chosen.add(best)
            missing |= names[best].needed
    return join(pieces[n] for n in sorted(chosen))


def _pieces(text: str) -> list[str]:
    """The passages of a text that are Python, each as long as possible."""
    lines, end = text.split("\n"), 0
    pieces: list[str] = []
    starts = [n for n, line in enumerate(lines) if STATEMENT.match(line)]
    for start in starts:
        if start >= end and len(pieces) < MOST_STARTS:
            piece = _valid_start(lines[start:])
            pieces.append(_without_idle("\n".join(piece)))
            end = start + len(piece)
    return pieces


def _without_idle(code: str) -> str:
    """The code without statements that do nothing. A word of prose is valid Python too: an undefined name."""
    if _error_line(code) is not None:
        return code
    with _quiet():
        statements = ast.parse(code).body
    lines = code.split("\n")
    for node in statements:
        end = node.end_lineno or node.lineno
        if _idle(node):
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return "\n".join(lines)


def _idle(node: ast.stmt) -> bool:
    """Whether a statement does nothing: a bare expression, or `name: words`."""
    bare = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call)
    return bare or (isinstance(node, ast.AnnAssign) and node.value is None)


def continued(prompt: str, texts: Iterable[str]) -> str:
    """The prompt with the text that continues it for longest as valid Python, indented if needed."""
    bodies = [
        prompt + body
        for text in filter(str.strip, texts)
        for body in (text, "    " + text.lstrip(), textwrap.indent(textwrap.dedent(text), "    "))
    ]
    valid = ["\n".join(_valid_start(body.split("\n"))) for body in bodies]
    longest = max(valid, key=lambda body: len(body.split()), default=prompt)
    return longest if len(longest.split()) > len(prompt.split()) else next(iter(bodies), prompt)


def _valid_start(lines: list[str]) -> list[str]:
    """The longest prefix of the lines that is Python; none if it is not found within MOST_CUTS cuts."""
    for _ in range(MOST_CUTS):
        error = _error_line("\n".join(lines))
        if error is None:
            return lines
        lines = lines[: min(error, len(lines)) - 1]
    return []


def _error_line(code: str) -> int | None:
    """The line of the first syntax error in code; None if it is valid Python."""
    try:
        with _quiet():
            compile(ast.parse(code), "answer.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # a null byte, a lone surrogate, a thousand brackets
        return 1
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Python's warnings about the code, such as invalid escapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
