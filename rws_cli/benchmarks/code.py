"""What benchmarks share that run programs: how code is read off an answer, and run with its tests."""

import ast
import builtins
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rws_cli.benchmarks import sandbox
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.errors import UsageError
from rws_cli.part import setting

# Models put code right behind tags such as <answer>, where CommonMark would see HTML.
MARKDOWN = MarkdownIt("commonmark").disable(["html_block", "inline"])
PYTHON = re.compile(r"[{.\s]*(?:i?python|py)[\d.]*(?![a-z])|\s*$", re.IGNORECASE)
"""Info strings of Python blocks: none, python, py3, {.python}, python title="a", …"""
STATEMENT = re.compile(r"(?:async\s+def|def|class|from|import)\s|@|[A-Za-z_]\w*\s*(?::.*)?=")
"""How code that stands among prose starts."""
INVISIBLE = {0xFEFF: None, 0x200B: None, 0xA0: " ", 0x202F: " ", 0x3000: " "}
"""A byte order mark, and spaces that Python does not take for spaces."""
MOST_STARTS, MOST_CUTS = 50, 8
"""Bounds on the time that reading an answer takes, which no honest answer meets."""
FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|.*)$", re.MULTILINE)


@dataclass
class CodeBenchmark(DataBenchmark):
    """Programs to write. An answer is right if its tests run to their end, in a sandbox (see sandbox.py) and only if
    allowed; a grade's `extracted` says why not. A part adds `program`."""

    runs_programs = True
    version = 2

    allow_code_execution: bool = setting(
        "whether generated programs may be run, in a sandbox, to be graded", False, asks=False
    )
    seconds: float = setting("processor time that each program may use", 5.0, above=0.0, max=3600.0, asks=False)
    memory_mb: int = setting("memory that each program may use, in MiB", 1024, min=64, max=1048576, asks=False)

    def program(self, row: Row, answer: str) -> str:
        """The code that an answer gives, and tests behind it that raise where it is wrong."""
        raise NotImplementedError

    def examples(self) -> list[Example]:
        if not self.allow_code_execution:
            raise UsageError(
                f"benchmark={self.name} runs the programs that a model writes, in a sandbox: "
                "allow it with benchmark.allow_code_execution=true."
            )
        sandbox.check_supported()
        return super().examples()

    def grade(self, example: Example, answer: str) -> Grade:
        outcome = sandbox.run(self.program(example.row, answer), self.seconds, self.memory_mb << 20)
        return Grade(outcome.passed, float(outcome.passed), outcome.reason, "sandbox")

    def doubtful_references(self, examples: list[Example]) -> None:
        """None: running all of them would take too long."""


def join(parts: Iterable[str]) -> str:
    """The parts as one program, imports from __future__ first as Python wants them."""
    program = "\n".join(parts)
    return "\n".join([*dict.fromkeys(FUTURE.findall(program)), FUTURE.sub("", program)])


# --- code in an answer --------------------------------------------------------------------------------------------


class Names:
    """Which names a piece of code binds and needs at its top level; none of either if it is not Python."""

    def __init__(self, code: str) -> None:
        self.needed: set[str] = set()
        self._bound: dict[str, int] = {}
        if _error_line(code) is not None:
            return
        with _quiet():
            top = symtable.symtable(code, "answer.py", "exec")
        for symbol in top.get_symbols():
            # A function counts more than a result of the same name, and either more than `from solution import name`.
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
        """How firmly the code binds a name: 3 as a function or class, 2 as a variable, 1 by an import, 0 not at all."""
        return self._bound.get(name, 0)


def extract(answer: str, wanted: Collection[str] = ()) -> str:
    """The code of an answer that defines the wanted names, with what this needs from other places of the answer.

    That is the last of the Python blocks that defines them, else what can be read as Python among prose; else all
    Python blocks, or the answer if it has none. Fences are paired by CommonMark's rules, so that a block left open ends
    with the answer.
    """
    text = clean(answer)
    readable = [_readable(block) for block in blocks(text)] or [_busy(_readable(text))]
    found = _defining(readable, wanted)
    if wanted and not found:
        found = _defining([piece for part in (text, *readable) for piece in _pieces(part)], wanted)
    return found or "\n".join(readable)


def clean(answer: str) -> str:
    return answer.translate(INVISIBLE).replace("\r\n", "\n").replace("\r", "\n")


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
    """The code, dedented or cut at a fence on its last line if it is Python only so."""
    forms = (code, textwrap.dedent(code), code.strip(), code.partition("```")[0])
    return next((form for form in forms if form.strip() and _error_line(form) is None), code)


def _defining(pieces: list[str], wanted: Collection[str]) -> str:
    """The pieces that define wanted names, and those that define what these need, in their order; "" if none does."""
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
    """The parts of a text, prose or not, that are Python, each as long as can be."""
    lines, end = text.split("\n"), 0
    found: list[str] = []
    starts = [n for n, line in enumerate(lines) if STATEMENT.match(line)]
    for start in starts:
        if start >= end and len(found) < MOST_STARTS:
            piece = _valid_start(lines[start:])
            found.append(_busy("\n".join(piece)))
            end = start + len(piece)
    return found


def _busy(code: str) -> str:
    """The code without statements that do nothing: a word of prose may be Python, too, a name that nothing defines."""
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
    """The prompt with the body among the texts that goes on from it longest, indented if it has to be."""
    bodies = [
        prompt + body
        for text in filter(str.strip, texts)
        for body in (text, "    " + text.lstrip(), textwrap.indent(textwrap.dedent(text), "    "))
    ]
    valid = ["\n".join(_valid_start(body.split("\n"))) for body in bodies]
    longest = max(valid, key=lambda body: len(body.split()), default=prompt)
    return longest if len(longest.split()) > len(prompt.split()) else next(iter(bodies), prompt)


def _valid_start(lines: list[str]) -> list[str]:
    """As many of the first lines as are Python; none where that takes more than a few cuts."""
    for _ in range(MOST_CUTS):
        error = _error_line("\n".join(lines))
        if error is None:
            return lines
        lines = lines[: min(error, len(lines)) - 1]
    return []


def _error_line(code: str) -> int | None:
    """The line at which code stops being Python; None if it is."""
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
    """Without Python's warnings about the code that it reads, such as an odd escape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
