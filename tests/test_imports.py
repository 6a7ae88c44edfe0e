"""Imports go downward: no circles between modules, and each folder imports only from folders below it.

Imports inside functions count, for they couple modules all the same; those for a type checker alone do not. What lies
loose at the package's root is looked at for circles only, but for the modules that everything may import.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rws_cli

PACKAGE = Path(rws_cli.__file__).parent

ORDER = [
    ("cli",),
    ("report",),
    ("serve",),
    ("runs", "workers"),
    ("judges", "trackers"),
    ("benchmarks", "rewards", "metrics"),
    ("likelihood",),
    ("decoding", "orders", "schedules", "guidance", "remasking", "search"),
    ("models",),
    ("analysis",),
    ("config",),
    ("part", "registry", "errors", "files"),
]
"""From top to bottom; what stands in one line may import each other."""
EXCEPTIONS = {"guidance → runs"}
"""Arrows that go up: `replay` reads the scales that another run recorded."""


def module_of(file: Path, package: Path = PACKAGE) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, known: set[str]) -> set[str]:
    """The modules among `known` that a module's source imports."""
    found = set()
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        todo += ast.iter_child_nodes(node)
    modules = {name for name in found if name in known}
    return {name for name in modules if not any(other.startswith(f"{name}.") for other in modules)} - {module}


def graph() -> dict[str, set[str]]:
    files = {module_of(file): file for file in PACKAGE.rglob("*.py")}
    return {name: imports_of(file.read_text(), name, set(files)) for name, file in files.items()}


def room(module: str) -> str | None:
    """The part of a module's name that ORDER has; None where it has none."""
    name = module.split(".")[1] if "." in module else ""
    return name if any(name in names for names in ORDER) else None


def upward(modules: dict[str, set[str]]) -> set[str]:
    level = {name: n for n, names in enumerate(ORDER) for name in names}
    return {
        f"{a} → {b}"
        for name, targets in modules.items()
        for target in targets
        if (a := room(name)) and (b := room(target)) and level[b] < level[a]
    }


def circle(modules: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circles():
    assert not (found := circle(graph())), " → ".join(found)


def test_folders_import_downward():
    assert upward(graph()) == EXCEPTIONS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from rws_cli.a import b", {"rws_cli.a.b"}),
        ("from rws_cli.a import function", {"rws_cli.a"}),
        ("def f():\n    import rws_cli.a", {"rws_cli.a"}),
        ("if TYPE_CHECKING:\n    from rws_cli.a import b\nelse:\n    import rws_cli.c", {"rws_cli.c"}),
        ("import numpy", set()),
    ],
)
def test_how_imports_are_read(source: str, expected: set[str]):
    assert imports_of(source, "rws_cli.x", {"rws_cli", "rws_cli.a", "rws_cli.a.b", "rws_cli.c"}) == expected


def test_an_arrow_that_goes_up_and_a_circle_are_found():
    assert upward({"rws_cli.analysis.x": {"rws_cli.report.y"}}) == {"analysis → report"}
    assert not upward({"rws_cli.report.y": {"rws_cli.analysis.x"}})
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
