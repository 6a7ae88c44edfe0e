"""Where reports and figures are written."""

from __future__ import annotations

from pathlib import Path

from rws_cli.errors import RunError, UsageError
from rws_cli.report.compare import by_task
from rws_cli.report.figures import save
from rws_cli.report.html import page
from rws_cli.report.replay import place_of
from rws_cli.report.shown import read_shown
from rws_cli.runs.folder import find_runs, write_whole


def write_reports(paths: list[str], out: str | None) -> list[Path]:
    """A report on some runs, one for each benchmark and model; returns what was written.

    Raises RunError if a run has nothing to show, and what compare_runs does.
    """
    target = Path(out).expanduser() if out else home(paths) / "report.html"
    if target.is_dir():
        target /= "report.html"
    written = []
    groups = by_task(folders_of(paths))
    for group in groups:
        shown, lines = read_shown(group)
        of = shown[0].config
        name = f"{target.stem}-{of['benchmark']['name']}-{of['model']['name']}{target.suffix}"
        path = target.with_name(name) if len(groups) > 1 else target
        try:
            write_whole(path, page(shown, lines))
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}.") from error
        written.append(path)
    return written


def write_figures(
    paths: list[str], out: str | None, names: list[str], formats: list[str], example: str | None
) -> list[Path]:
    """Single figures, into the folder `out`, or figures/ in the first run's or sweep's. Raises UsageError for runs of
    several benchmarks or models, an unknown figure or example; RunError as write_reports does."""
    folders = folders_of(paths)
    if len(by_task(folders)) > 1:
        raise UsageError("Figures show runs of one benchmark and model: name those run folders alone.")
    shown, _ = read_shown(folders)
    ids = [i for i in shown[0].place if all(i in run.place for run in shown)]
    chosen = ids[0 if example is None else place_of(example, ids, folders[0])]
    return save(names, shown, chosen, formats, Path(out).expanduser() if out else home(paths) / "figures")


def folders_of(paths: list[str]) -> list[Path]:
    return list(dict.fromkeys(folder for path in paths for folder in find_runs(path)))


def home(paths: list[str]) -> Path:
    """The first folder that was named: a sweep's, or a run's."""
    first = Path(paths[0]).expanduser()
    return first.resolve() if not (first / "latest").exists() and first.is_dir() else find_runs(paths[0])[0]
