"""Run folders: claimed atomically, written whole or not at all, found again by path.

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
from rws_cli.files import hold, newest, open_lock, open_regular, user_path, versions, warn, whole, write_whole
from rws_cli.runs.forms import reader

JOB = re.compile(r"\d+(-\d+)?")
SWEPT = ("sweep.json", "multirun.yaml")
"""A sweep's folder has one of these; its jobs may be called anything."""
STAGED, NEW = ".staged", ".new"
"""Folders in a run's: files that replace_together writes, and those that it is moving into place."""
RECORDS = ("manifest.json", "samples.jsonl", "trace.parquet", "metrics.json", "failures.jsonl")


def claim_version(parent: Path) -> Path:
    """Make and return the next free vNNN under `parent`. mkdir is the claim: two runs never get the same one.

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
    """Make `latest` beside the folder a link to it, replacing the old one in one move."""
    link, fresh = folder.parent / "latest", folder.parent / f".latest-{folder.name}-{os.getpid()}"
    try:
        fresh.symlink_to(folder.name)
        os.replace(fresh, link)
    except OSError:  # a file system without links; `latest` is a convenience
        fresh.unlink(missing_ok=True)
        if link.is_dir() and not link.is_symlink():
            warn(f"{link} is a folder, not a link: it stays as it is, and rws reads {folder.name} in its place")


@contextmanager
def run_lock(run: Path | None) -> Iterator[None]:
    """Hold a run's folder for this process; the system lets go of it however the process ends. None: nothing. What
    writers that were killed left half-written is removed.

    Raises UsageError if another process holds it.
    """
    if run is None:
        yield
        return
    with open_lock(run / ".lock") as file:
        try:
            hold(file, wait=False)
        except (BlockingIOError, PermissionError) as error:  # held; another error is the disk's
            file.seek(0)
            raise UsageError(
                f"{run} is being written by another process ({file.read().strip() or 'unknown'})."
            ) from error
        if not (run / ".lock").exists() or not os.path.samestat(os.fstat(file.fileno()), (run / ".lock").stat()):
            raise UsageError(f"{run} was let go of by another process this moment: try again.")
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
    """Raises UsageError if files in a folder that is to be appended to are links: what they lead to is not the run's."""
    if links := sorted(path.name for path in folder.iterdir() if path.is_symlink()):
        raise UsageError(
            f"{folder / links[0]} is a link, and what it leads to would be written: put a file in its place."
        )


def replace_together(run: Path, files: dict[str, str]) -> None:
    """Replace several files of a run as one: of a process that is killed, all are old or, once settled, all are new."""
    settle(run)
    staged = run / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, text in files.items():
        write_whole(staged / name, text)
    os.replace(staged, run / NEW)  # from here on the new files count
    settle(run)


def settle(run: Path) -> None:
    """Finish a replace_together that was killed after its files counted. Two processes may do so at once."""
    if (run / NEW).is_dir() and not (run / NEW).is_symlink():
        with suppress(FileNotFoundError):
            for file in sorted((run / NEW).iterdir()):
                with suppress(FileNotFoundError):
                    os.replace(file, run / file.name)
            (run / NEW).rmdir()


def find_run(path: str) -> Path:
    """The run folder that a user's path names: itself, or what `latest` in it points to.

    Raises UsageError if there is no run there.
    """
    folder = user_path(path)
    for candidate in (newest(folder), newest(folder / "latest")):
        if (candidate / "manifest.json").is_file():
            settle(candidate.resolve())
            return candidate.resolve()
    if not folder.exists():
        raise UsageError(f"{path} does not exist: give a run folder, such as outputs/sudoku/tiny-rws/v001.")
    found = (p for depth in range(1, 5) for p in folder.glob("*/" * depth + "manifest.json"))
    inside = sorted({p.parent for p in found if not {"latest", NEW, STAGED} & {*p.parts}})
    hint = f" (there are runs inside it: {', '.join(map(str, inside[:3]))}{', …' if len(inside) > 3 else ''})"
    raise UsageError(f"{path} is not a run folder: it has no manifest.json{hint if inside else ''}.")


def find_runs(path: str) -> list[Path]:
    """Like find_run; a folder of several runs (a sweep) gives them all, in the order of their names."""
    folder = newest(user_path(path))
    swept = any((folder / name).is_file() for name in SWEPT)
    inside = [p.parent for p in folder.glob("**/manifest.json" if swept else "*/manifest.json")]
    inside = [p for p in inside if not {"latest", NEW, STAGED} & {*p.relative_to(folder).parts}]
    named = swept or all(JOB.fullmatch(p.name) for p in inside)
    if inside and named and not (folder / "manifest.json").is_file():
        return [find_run(str(p)) for p in sorted(inside, key=lambda p: _by_number(p.relative_to(folder).as_posix()))]
    return [find_run(path)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them: 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def find_all(paths: Iterable[Path | str]) -> list[Path]:
    """The runs that several paths name, each once."""
    return list(dict.fromkeys(folder for path in paths for folder in find_runs(str(path))))


def output_dir(path: Path | str) -> Path:
    """Where what is made of a path's runs belongs: a run's folder, or that of a sweep. Raises UsageError as find_run."""
    folder, runs = newest(user_path(path)), find_runs(str(path))
    return folder.resolve() if folder.resolve() in runs[0].parents and not (folder / "latest").exists() else runs[0]


def read_json(path: Path) -> Any:
    """The value of a JSON file, which has the form of a file of its name. Raises RunError if it has not, or is missing."""
    try:
        with open_regular(path) as file:
            return reader(path.name, schema_of(path.parent))(whole(file))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def schema_of(folder: Path) -> int:
    """The schema of the run that a folder is, or lies in: judgements and parts of the trace do. Today's where there is no
    manifest that says."""
    for run in (folder, *list(folder.parents)[:2]):
        with suppress(OSError, ValueError, AttributeError):
            schema = json.loads((run / "manifest.json").read_bytes()).get("schema")
            return schema if isinstance(schema, int) else SCHEMA
    return SCHEMA


def unreadable(path: Path, error: Exception, line: int | None = None) -> RunError:
    """The sentence for a file that cannot be read, or that does not hold what it should."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    at = "" if line is None else f" at line {line}"
    return RunError(f"{path} cannot be read{at}: {why.rstrip('.')}.")
