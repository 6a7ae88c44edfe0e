"""Parts that are one file: a kind which is none of the built-in ones is a module in the folder of its role.

`benchmark.kind=copying` is looked for as rws_cli/benchmarks/copying.py, `sampler.order=middle` as rws_cli/decoding/middle.py.
Such a module is known by the names that it defines, which are read off its source before any of it runs: a word in a
configuration never runs a module of another purpose, nor one outside these folders.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rws_cli.config.schema import COUNTED, REMASKING, SCHEDULES
from rws_cli.errors import UsageError


@dataclass(frozen=True)
class Role:
    """The folder of a role's modules, the names that one of them defines, and the settings that its Settings has."""

    package: str
    names: tuple[str, ...]
    settings: tuple[str, ...] = ()


ROLES = {
    "order": Role("decoding", ("score",)),
    "schedule": Role("decoding", ("Settings", "make"), ("kind",)),
}


def own(role: str) -> list[str]:
    """The kinds of a role that have a file of their own."""
    return sorted({file.stem for folder in _folders(role) for file in folder.glob("*.py") if known(role, file.stem)})


def known(role: str, kind: Any) -> bool:
    """Whether a kind has a file of its own; nothing of it runs."""
    try:
        return set(ROLES[role].names) <= _defined(_file(role, kind))
    except SyntaxError:
        return False


def find(role: str, kind: Any) -> ModuleType | None:
    """The module of a kind, None where there is none. Raises UsageError if there is one that cannot be imported."""
    file, name, names = _file(role, kind), f"rws_cli.{ROLES[role].package}.{kind}", ROLES[role].names
    if file is None:
        return None
    if name in sys.modules and all(hasattr(sys.modules[name], each) for each in names):
        return sys.modules[name]  # a step of the loop asks, too
    try:
        return import_module(name) if set(names) <= _defined(file) else None
    except Exception as error:  # whatever a file that is being written can do
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise UsageError(f"{file} cannot be imported: {type(error).__name__}: {reason}.") from error


def settings_of(role: str, kind: Any) -> type | None:
    """The schema of a kind's settings, None where it has no module. Raises UsageError if it is no schema."""
    module = find(role, kind)
    if module is None:
        return None
    schema = module.Settings
    if not isinstance(schema, type) or not is_dataclass(schema):
        raise UsageError(f"{module.__file__}: Settings must be a dataclass whose fields are made by setting(…).")
    if missing := set(ROLES[role].settings) - {f.name for f in fields(schema)}:
        raise UsageError(f"{module.__file__}: Settings lacks {', '.join(sorted(missing))}.")
    return schema


def says(role: str, kind: str, name: str, otherwise: Any) -> Any:
    """What a kind's module says of itself by a constant, `otherwise` where it says nothing."""
    return getattr(find(role, kind), name, otherwise)


def reads_steps(schedule: str) -> bool:
    """Whether a schedule reads sampler.steps and tokens_per_step, rather than take as many steps as it needs."""
    return schedule in COUNTED or (schedule not in SCHEDULES and says("schedule", schedule, "READS_STEPS", False))


def masks_again(schedule: str) -> bool:
    """Whether a schedule masks committed tokens again."""
    return schedule in REMASKING or (schedule not in SCHEDULES and says("schedule", schedule, "MASKS_AGAIN", False))


def _folders(role: str) -> list[Path]:
    """Where a role's modules are, found without importing their package, for some import torch."""
    name = f"rws_cli.{ROLES[role].package}"
    spec = find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or [] if spec else [])]


def _file(role: str, kind: Any) -> Path | None:
    if not isinstance(kind, str) or not kind.isidentifier():
        return None
    return next((file for folder in _folders(role) if (file := folder / f"{kind}.py").is_file()), None)


def _defined(file: Path | None) -> set[str]:
    """The names that a module defines at its top level. Raises SyntaxError."""
    names: set[str] = set()
    for node in ast.parse(file.read_bytes()).body if file else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
