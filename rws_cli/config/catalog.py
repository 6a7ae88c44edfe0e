"""The configuration folders, their groups, and the choices in each group."""

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
    "likelihood",
    "method",
    "experiment",
    "runtime",
)
BUNDLED = "bundled:"


def external_folders() -> dict[str, Path]:
    """The conf/ folders that come with parts from outside the package, by the source of those parts.

    Raises UsageError if two of them, or one and conf/, have a file of the same name.
    """
    folders = {root.source: root.path / "conf" for root in registry.roots()[1:] if (root.path / "conf").is_dir()}
    by_name: dict[Path, Path] = {}
    for folder in [CONF, *folders.values()] if folders else ():
        for file in folder.rglob("*.yaml"):
            other = by_name.setdefault(file.relative_to(folder), file)
            if other != file:
                raise UsageError(f"{file} has the same name as {other}: rename it.")
    return folders


def files(group: str) -> dict[str, tuple[Path, str]]:
    """The choices in a configuration group: name → its file, and the source of its folder."""
    return {
        path.relative_to(folder / group).with_suffix("").as_posix(): (path, source)
        for source, folder in {"rws": CONF, **external_folders()}.items()
        for path in sorted((folder / group).rglob("*.yaml"))
        if not path.stem.startswith("_")
    }


def choices(group: str) -> dict[str, str]:
    """The choices in a group: name → its first comment line, with its source if that is not rws."""
    descriptions = {}
    for name, (path, source) in files(group).items():
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
        origin = [] if source == "rws" else [f"(from {source})"]
        descriptions[name] = " ".join([*comments[:1], *origin])
    return descriptions
