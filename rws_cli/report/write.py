"""Where reports and figures are written."""

from pathlib import Path

from rws_cli.analysis.compare import common
from rws_cli.errors import RunError, UsageError
from rws_cli.files import user_path, write_whole
from rws_cli.report.figures import save
from rws_cli.report.html import page
from rws_cli.report.replay import place_of
from rws_cli.report.shown import read_shown
from rws_cli.runs.folder import home
from rws_cli.runs.reading import by_task


def write_reports(paths: list[str], out: str | None) -> list[Path]:
    """A report on some runs, one for each benchmark and model; returns what was written.

    Raises RunError if a run has nothing to show, and what compared does.
    """
    target = user_path(out) if out else home(paths[0]) / "report.html"
    if target.is_dir():
        target /= "report.html"
    written = []
    groups = by_task(paths)
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
    folders, *others = by_task(paths)
    if others:
        raise UsageError("Figures show runs of one benchmark and model: name those run folders alone.")
    shown, _ = read_shown(folders)
    ids = common([run.run for run in shown])
    chosen = ids[0 if example is None else place_of(example, ids, folders[0])]
    return save(names, shown, chosen, formats, user_path(out) if out else home(paths[0]) / "figures")
