"""The project's words: names that say what they hold, and the field's terms in place of private ones."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
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


OLD_WORDS = {
    r"\b(re)?mark(s|ed|er|ers|ing)?\b": "grade",
    r"\b(mark_answer|marks_before|marker_version|unmarked)\b": "grade_completion, grades_before, …",
    r"\b(told|tell|tells|Story|stories|Shown|read_shown|Answerer|Contest|Mover|Moment|Ranked|psi)\b": "a name of METHODS.md, Terms",
    r"\b(other_sets?|masked_again|reward_hits|same_answers|\w*by_fill|fill level)\b": "changed_selection, remasked, …",
    r"(?<!FK )\b[Ss]teering\b": "guidance",
    r"\b(sampler|guidance)=(temperature|replay)\b": "constant_scale, recorded_scale",
    r"kind(=|: ?)(temperature|replay)\b": "constant_scale, recorded_scale",
    r"\b(sampler\.review|benchmark\.answers|backend(=|: )here|draw(=|: )pareto)\b": "the names of today",
    r"(--figure |draw_|\")(map|course)\b": "order_heatmap, by_step",
    r"\b(tokens|passes|calls|commits|steps|bytes|lines?|rows?|points?|one|seconds|committed|copies|panel|column) an? "
    r"(example|step|token|row|core|GPU|block|prompt|question|weight|sample|setting|run|measure|job)\b": "per example, per step, …",
    r"\bis no (figure|sampler|score|example|plan)\b": "is not a …",
}
"""Words of earlier versions → what is said now."""
ELSEWHERE = (
    "tests/data/", "tests/config/test_renamed.py", "tests/test_old_runs.py", "tests/test_api.py", "tests/test_words.py", "rws_cli/config/renamed.py", "pyproject.toml",
    "constraints.txt", "LICENSE",
)  # fmt: skip
"""The table of old names, data that old versions wrote, their tests, and files that are not ours to word."""
OTHER_MEANINGS = (
    r"pytest\.?(mark|param)", r"marked `(slow|cuda)`", r"\bstrict-markers", r"\bmarker\b.*(fmt|markersize|plot|errorbar)|\bmarker: str|if marker\b|marker: a shape",
    r"@part", r"(question|exclamation|quotation|order|list|the) marks?\b", r"marks? (the|a|one) class", r"cudagraph_mark",
)  # fmt: skip
"""Lines on which such a word is another one's: pytest's, matplotlib's, Python's, punctuation."""


def texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in listed.stdout.splitlines():
        ours = Path(name).suffix in (".py", ".md", ".yaml", ".js", ".html", ".toml", "") and not name.startswith(
            ELSEWHERE
        )
        if ours and (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(encoding="utf-8")


def test_old_words_are_gone() -> None:
    left = [
        f"{name}:{number}: {line.strip()[:100]} ({new})"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for old, new in OLD_WORDS.items()
        if re.search(old, line) and not any(re.search(other, line) for other in OTHER_MEANINGS)
    ]
    assert not left, "\n".join(left)
