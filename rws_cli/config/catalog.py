"""The catalog: the folders of configurations, their groups, and the choices of each."""

from pathlib import Path

from rws_cli import registry
from rws_cli.errors import UsageError

PACKAGE = registry.PACKAGE
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
ASSETS = PACKAGE / "assets"
GROUPS = (
    "model",
    "reward",
    "sampler",
    "guidance",
    "search",
    "benchmark",
    "metric",
    "judge",
    "method",
    "experiment",
    "runtime",
)
BUNDLED = "bundled:"


def added() -> dict[str, Path]:
    """The folders of configurations that come with parts from outside the package, by the source of these parts.

    Raises UsageError if one has a file that another, or conf/, has too.
    """
    found = {root.source: root.path / "conf" for root in registry.roots()[1:] if (root.path / "conf").is_dir()}
    known: dict[Path, Path] = {}
    for folder in [CONF, *found.values()] if found else ():
        for file in folder.rglob("*.yaml"):
            other = known.setdefault(file.relative_to(folder), file)
            if other != file:
                raise UsageError(f"{file} is of the same name as {other}: give it another one.")
    return found


def files(group: str) -> dict[str, tuple[Path, str]]:
    """The choices of a configuration group: name → its file, and the source of the folder that it is in."""
    return {
        path.relative_to(folder / group).with_suffix("").as_posix(): (path, source)
        for source, folder in {"rws": CONF, **added()}.items()
        for path in sorted((folder / group).rglob("*.yaml"))
        if not path.stem.startswith("_")
    }


def choices(group: str) -> dict[str, str]:
    """The choices of a group: name → its first comment line, and where it is from if not from rws."""
    found = {}
    for name, (path, source) in files(group).items():
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
        origin = [] if source == "rws" else [f"(from {source})"]
        found[name] = " ".join([*comments[:1], *origin])
    return found
