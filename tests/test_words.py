"""The project's words: names that say what they hold, and the field's terms in place of private ones."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VAGUE = {"found", "told", "given", "kept", "at", "known", "own", "said", "asked", "shown"}
"""Names for anything: good for a value that is used on the spot, and for nothing that a reader must remember."""
LINES = 3
"""The lines that a variable of such a name may live: from the one that sets it to the last that reads it."""
CODE = [*sorted((ROOT / "rws_cli").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]


def vague_names(source: str) -> list[str]:
    """What has a vague name in some code: functions, classes, fields, and variables and arguments that live long."""
    tree = ast.parse(source)
    mistakes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in VAGUE:
            mistakes.append(f"line {node.lineno}: {node.name} is defined")
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id in VAGUE:
                    mistakes.append(f"line {field.lineno}: field {field.target.id}")
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in VAGUE:
            mistakes.append(f"line {node.lineno}: attribute {node.attr}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            mistakes += long_lived(node)
    return mistakes


def long_lived(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    lines: dict[str, list[int]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in VAGUE:
            lines.setdefault(node.id, []).append(node.lineno)
        if isinstance(node, ast.arg) and node.arg in VAGUE:
            lines.setdefault(node.arg, []).append(node.lineno)
    return [
        f"line {min(where)}: {name} lives {max(where) - min(where) + 1} lines"
        for name, where in lines.items()
        if max(where) - min(where) + 1 > LINES
    ]


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_names_say_what_they_hold(file: Path) -> None:
    assert not vague_names(file.read_text(encoding="utf-8"))


def test_the_test_sees_what_it_looks_for() -> None:
    assert vague_names("def f():\n    found = 1\n    a = 2\n    b = 3\n    return found\n")
    assert not vague_names("def f():\n    found = 1\n    return found\n")
    assert vague_names("class Told: pass\nclass A:\n    kept: int = 1\n") == ["line 3: field kept"]
    assert vague_names("def told(at):\n    pass\n") == ["line 1: told is defined"]


PRIVATE = (
    r"\bmark(s|ed|er|ers|ing)?\b(?! ?(@part|`@part))", "told", "tell", "Story", "Shown", "shown", "Mover", "Moment", "Ranked", "psi",
    "other_sets?", "masked_again", "steering", "reward_hits", "by_fill", "Answerer", "Contest",
)  # fmt: skip
