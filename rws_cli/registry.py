"""The parts that can be chosen: found by their place, read as source, imported only when a configuration names them.

A part is the file FOLDER/NAME.py of its role, in rws_cli, in an installed package that has an entry point in the group
rws.parts, or in a folder given by --parts. Its class is marked `@part`. What it is, what can be set, and what it
declares are read off the source, so that listing parts runs nothing.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rws_cli.errors import UsageError, choose_from
from rws_cli.files import user_path

PACKAGE = Path(__file__).parent
ROLES = {
    "model": "models",
    "order": "orders",
    "schedule": "schedules",
    "guidance": "guidance",
    "remasking": "remasking",
    "search": "search",
    "reward": "rewards",
    "benchmark": "benchmarks",
    "metric": "metrics",
    "judge": "judges",
    "tracker": "trackers",
    "worker": "workers",
}
"""Role → the folder of its parts, in every place where parts are looked for."""


@dataclass(frozen=True)
class Root:
    """A place with folders of parts. source: what users know it by; package: the package that its modules are in."""

    source: str
    path: Path
    package: str


@dataclass(frozen=True)
class Setting:
    """A setting as the source has it. default: MISSING where it has none; allowed: choices, min, above, max, role."""

    name: str
    type: str
    meaning: str
    default: Any
    allowed: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A part that was found, and maybe never imported."""

    role: str
    name: str
    file: Path
    root: Root

    @property
    def module(self) -> str:
        return f"{self.root.package}.{ROLES[self.role]}.{self.name}"

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    @cached_property
    def title(self) -> str:
        """The first line of the file's docstring."""
        return (ast.get_docstring(_parsed(self.file)) or "").partition("\n")[0]

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """What can be set, settings of base classes first."""
        return {s.name: s for cls, file in self._classes() for s in _settings(cls, _constants(file))}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The constants of the class: what the part declares about itself. Computed ones are not among them."""
        found = {name: value for cls, file in self._classes() for name, value in _facts(cls, _constants(file))}
        return {name: value for name, value in found.items() if value is not MISSING and name not in self.settings}

    def _classes(self) -> list[tuple[ast.ClassDef, Path]]:
        """The part's class and those it is derived from, the most general one first, with their files."""
        return list(_lineage(_marked(_parsed(self.file)), self.file, self.root))[::-1]


_folders: list[Root] = []


def add_folder(folder: str) -> None:
    """Query for parts in a folder of the user's too. Raises UsageError if it is not one."""
    path = user_path(folder).absolute()
    if not path.is_dir():
        raise UsageError(f"--parts={folder} is not a folder.")
    if any(root.path == path for root in _folders):
        return
    name = f"rws_parts_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # the same in every process
    package = sys.modules.setdefault(name, ModuleType(name))
    package.__path__ = [str(path)]
    _folders.append(Root(f"--parts {folder}", path, name))
    available.cache_clear()


def set_folders(given: Iterable[str]) -> None:
    """Query for parts in these folders of the user's, and in no others. Raises UsageError if one is not a folder."""
    _folders.clear()
    available.cache_clear()
    for folder in given:
        add_folder(folder)


def folders() -> list[str]:
    """The folders of the user's, for a process that is to find the same parts."""
    return [str(root.path) for root in _folders]


def roots() -> list[Root]:
    """Where parts are looked for. Nothing is imported."""
    return [Root("rws", PACKAGE, "rws_cli"), *_folders, *_packages()]


@lru_cache
def _packages() -> list[Root]:
    """Installed packages with an entry point in the group rws.parts."""
    found = []
    for entry in entry_points(group="rws.parts"):
        top, *rest = entry.value.split(".")
        spec = find_spec(top)
        for location in (spec.submodule_search_locations if spec else None) or []:
            found.append(Root(entry.dist.name if entry.dist else top, Path(location, *rest), entry.value))
    return found


@lru_cache
def available(role: str) -> dict[str, Source]:
    """The parts of a role by name. Raises UsageError if a name stands for two."""
    found: dict[str, Source] = {}
    for root in roots():
        for file in sorted((root.path / ROLES[role]).glob("*.py")):
            if b"\n@part\n" not in file.read_bytes().replace(b"\r\n", b"\n"):
                continue
            if file.stem in found:
                raise UsageError(f"{role} {file.stem} is defined twice, in {found[file.stem].file} and in {file}.")
            found[file.stem] = Source(role, file.stem, file, root)
    return found


def get(role: str, name: Any, at: str) -> Source:
    """A part by name. Raises UsageError naming the setting `at` and the names that there are."""
    known = available(role)
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"{at}={name} is not known: {choose_from(name, known)}")
    return known[name]


def load(role: str, name: Any, at: str) -> type:
    """The class of a part, imported. Raises UsageError if there is none of that name, or its file is not a part of the role."""
    source = get(role, name, at)
    try:
        module = import_module(source.module)
    except Exception as error:  # whatever a file that is being written can do
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise UsageError(f"{source.file} cannot be imported: {type(error).__name__}: {reason}.") from error
    marked = [cls for cls in vars(module).values() if getattr(cls, "part_module", None) == source.module]
    if len(marked) != 1 or getattr(marked[0], "role", None) != role:
        raise UsageError(
            f"{source.file} must mark one class with @part, and derive it from the base class of a {role}."
        )
    return marked[0]


def make(role: str, name: Any, at: str) -> Any:
    """A part that has no settings of its own, by name. Raises UsageError as load does."""
    return load(role, name, at)(kind=name)


# --- reading source -----------------------------------------------------------------------------------------------


@lru_cache
def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file} is not Python: {error}.") from error


def _marked(module: ast.Module) -> ast.ClassDef | None:
    """The class marked @part."""
    classes = (node for node in module.body if isinstance(node, ast.ClassDef))
    return next((c for c in classes if any(isinstance(d, ast.Name) and d.id == "part" for d in c.decorator_list)), None)


def _lineage(cls: ast.ClassDef | None, file: Path, root: Root) -> Iterator[tuple[ast.ClassDef, Path]]:
    """A class and its base classes, as far as they are in this root or in rws_cli."""
    if cls is None:
        return
    yield cls, file
    for base in cls.bases:
        if isinstance(base, ast.Name):
            yield from _lineage(*_defined(base.id, file, root), root)


def _defined(name: str, file: Path, root: Root) -> tuple[ast.ClassDef | None, Path]:
    """The class that a name means in a file, and the file that defines it."""
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, file
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            top, *rest = (node.module or "").split(".")
            if node.level:
                other = file.parents[node.level - 1].joinpath(*([top, *rest] if top else []))
            else:
                other = {"rws_cli": PACKAGE, root.package: root.path}.get(top, Path(os.devnull)).joinpath(*rest)
            other = other / "__init__.py" if other.is_dir() else other.with_suffix(".py")
            return _defined(original, other, root) if other.is_file() else (None, file)
    return None, file


def _constants(file: Path) -> dict[str, Any]:
    """A module's constants that are literals."""
    found = {}
    for node in _parsed(file).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _literal(node.value, {})
    return found


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    """The value of an expression that needs no running; MISSING where it does."""
    if isinstance(node, ast.Name):
        return {"dict": {}, "list": []}.get(node.id, constants.get(node.id, MISSING))
    try:
        return ast.literal_eval(node)
    except ValueError:
        return MISSING


def _settings(cls: ast.ClassDef, constants: dict[str, Any]) -> Iterator[Setting]:
    for node in cls.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)) or _is_constant(node):
            continue
        call = node.value
        if not isinstance(call, ast.Call):
            default = _literal(call, constants) if call else MISSING
            yield Setting(node.target.id, ast.unparse(node.annotation), "", default, {})
        else:
            positional = [_literal(argument, constants) for argument in call.args]
            named = {k.arg: _literal(k.value, constants) for k in call.keywords if k.arg}
            meaning = positional[0] if positional else named.pop("meaning", "")
            default = (
                positional[1] if len(positional) > 1 else named.pop("default", named.pop("default_factory", MISSING))
            )
            yield Setting(node.target.id, ast.unparse(node.annotation), str(meaning), default, named)


def _facts(cls: ast.ClassDef, constants: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and _is_constant(node) and node.value:
            yield ast.unparse(node.target), _literal(node.value, constants)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, _literal(node.value, constants)
        elif isinstance(node, ast.FunctionDef):
            yield node.name, MISSING  # in place of a constant of a base class


def _is_constant(node: ast.AnnAssign) -> bool:
    return ast.unparse(node.annotation).startswith("ClassVar")
