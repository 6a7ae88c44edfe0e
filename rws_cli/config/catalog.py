"""The catalog: where conf/ is, its groups, and the choices of each."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
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


def choices(group: str) -> dict[str, str]:
    """The choices of a configuration group, name → its first comment line."""
    found = {}
    folder = CONF / group
    for path in sorted(folder.rglob("*.yaml")):
        if not path.stem.startswith("_"):
            comments = [
                line
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.startswith("# ") and "@package" not in line
            ]
            found[path.relative_to(folder).with_suffix("").as_posix()] = comments[0][2:] if comments else ""
    return found
