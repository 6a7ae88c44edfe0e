"""Run folders: claimed and written atomically, and found by path.

A run folder holds manifest.json, samples.jsonl, trace.parquet (trace/ while it runs), metrics.json and run.log.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rws_cli.config.renamed import SCHEMA
from rws_cli.errors import RunError, UsageError
from rws_cli.files import (
    acquire_lock,
    newest,
    open_lock,
    open_regular,
    read_limited,
    user_path,
    versions,
    warn,
    write_whole,
)
from rws_cli.runs.forms import reader

JOB = re.compile(r"\d+(-\d+)?")
SWEPT = ("sweep.json", "multirun.yaml")
"""A sweep's folder has one of these files; its jobs may have any names."""
STAGED, NEW = ".staged", ".new"
"""Folders in a run folder: the files that replace_together is writing, and those that it is moving into place."""
RECORDS = ("manifest.json", "samples.jsonl", "trace.parquet", "metrics.json", "failures.jsonl")


def claim_version(parent: Path) -> Path:
    """Create and return the next free vNNN in `parent`. mkdir is atomic, so two runs never get the same one.

    Raises RunError if the folder cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name[1:]) for p in versions(parent)), default=0) + 1
        while True:
            folder = parent / f"v{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunError(
            f"The output folder {parent} cannot be written: {error.strerror}; set output=<a folder>."
        ) from error


def point_latest(folder: Path) -> None:
    """Atomically make `latest`, next to the folder, a link to it."""
    link, fresh = folder.parent / "latest", folder.parent / f".latest-{folder.name}-{os.getpid()}"
    try:
        fresh.symlink_to(folder.name)
        os.replace(fresh, link)
    except OSError:  # a file system without links; `latest` is only a convenience
        fresh.unlink(missing_ok=True)
        if link.is_dir() and not link.is_symlink():
            warn(f"{link} is a folder, not a link: it is left unchanged, and rws reads {folder.name} instead")


@contextmanager
def run_lock(run: Path | None) -> Iterator[None]:
    """Lock a run's folder for this process; the system releases it however the process ends. None: no lock.
    Half-written files of killed processes are removed.

    Raises UsageError if another process holds the lock.
    """
    if run is None:
        yield
        return
    with open_lock(run / ".lock") as file:
        try:
            acquire_lock(file, wait=False)
        except (BlockingIOError, PermissionError) as error:  # locked; other errors come from the disk
            file.seek(0)
            raise UsageError(
                f"{run} is being written by another process ({file.read().strip() or 'unknown'}): wait until it ends."
            ) from error
        if not (run / ".lock").exists() or not os.path.samestat(os.fstat(file.fileno()), (run / ".lock").stat()):
            raise UsageError(f"{run} was just released by another process: try again.")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for left in (path for name in RECORDS for path in run.glob(f".{name}*")):
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            (run / ".lock").unlink(missing_ok=True)


def check_no_links(folder: Path) -> None:
    """Raises UsageError if a folder that will be written to contains links, whose targets are not the run's."""
    if links := sorted(path.name for path in folder.iterdir() if path.is_symlink()):
        raise UsageError(f"{folder / links[0]} is a link, and its target would be overwritten: replace it with a file.")


def replace_together(run: Path, files: dict[str, str]) -> None:
    """Replace several files of a run together: if the process is killed, `finish_replacing` leaves all old or all new."""
    finish_replacing(run)
    staged = run / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, text in files.items():
        write_whole(staged / name, text)
    os.replace(staged, run / NEW)  # from here on, the new files are valid
    finish_replacing(run)


def finish_replacing(run: Path) -> None:
    """Finish a replace_together that was killed once its new files were valid. Safe in several processes at once."""
    if (run / NEW).is_dir() and not (run / NEW).is_symlink():
        with suppress(FileNotFoundError):
            for file in sorted((run / NEW).iterdir()):
                with suppress(FileNotFoundError):
                    os.replace(file, run / file.name)
            (run / NEW).rmdir()


def find_run(path: str) -> Path:
    """The run folder at a user's path: the path itself, or what `latest` in it points to.

    Raises UsageError if there is no run there.
    """
    folder = user_path(path)
    for candidate in (newest(folder), newest(folder / "latest")):
        if (candidate / "manifest.json").is_file():
            finish_replacing(candidate.resolve())
            return candidate.resolve()
    if not folder.exists():
        raise UsageError(f"{path} does not exist: give a run folder, such as outputs/sudoku/tiny-rws/v001.")
    manifests = (p for depth in range(1, 5) for p in folder.glob("*/" * depth + "manifest.json"))
    inside = sorted({p.parent for p in manifests if not {"latest", NEW, STAGED} & {*p.parts}})
    hint = f" (it contains runs: {', '.join(map(str, inside[:3]))}{', …' if len(inside) > 3 else ''})"
    raise UsageError(f"{path} is not a run folder: it has no manifest.json{hint if inside else ''}.")


def find_runs(path: str) -> list[Path]:
    """The runs at a user's path: as find_run, or all runs of a sweep's folder, sorted by name."""
    folder = newest(user_path(path))
    swept = any((folder / name).is_file() for name in SWEPT)
    inside = [p.parent for p in folder.glob("**/manifest.json" if swept else "*/manifest.json")]
    inside = [p for p in inside if not {"latest", NEW, STAGED} & {*p.relative_to(folder).parts}]
    named = swept or all(JOB.fullmatch(p.name) for p in inside)
    if inside and named and not (folder / "manifest.json").is_file():
        return [find_run(str(p)) for p in sorted(inside, key=lambda p: _by_number(p.relative_to(folder).as_posix()))]
    return [find_run(path)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """A sort key that orders the numbers in names by value: 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def find_all(paths: Iterable[Path | str]) -> list[Path]:
    """The runs at several paths, without duplicates."""
    return list(dict.fromkeys(folder for path in paths for folder in find_runs(str(path))))


def output_dir(path: Path | str) -> Path:
    """The folder for files made from the runs at a path: the run's or the sweep's. Raises UsageError as find_run."""
    folder, runs = newest(user_path(path)), find_runs(str(path))
    return folder.resolve() if folder.resolve() in runs[0].parents and not (folder / "latest").exists() else runs[0]


def read_json(path: Path) -> Any:
    """The value of a JSON file, checked against the form of its name. Raises RunError if it is missing or invalid."""
    try:
        with open_regular(path) as file:
            return reader(path.name, schema_of(path.parent))(read_limited(file))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def schema_of(folder: Path) -> int:
    """The schema of the run at, or containing, a folder such as judgements/; the current one if no manifest says."""
    for run in (folder, *list(folder.parents)[:2]):
        with suppress(OSError, ValueError, AttributeError, RecursionError):
            schema = json.loads((run / "manifest.json").read_bytes()).get("schema")
            return schema if isinstance(schema, int) else SCHEMA
    return SCHEMA


def unreadable(path: Path, error: Exception, line: int | None = None) -> RunError:
    """The error for a file that cannot be read or is invalid."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    where = "" if line is None else f" at line {line}"
    return RunError(f"{path} cannot be read{where}: {why.rstrip('.')}.")
