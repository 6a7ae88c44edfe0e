"""Files that are written whole or not at all, locked, and read with a limit."""

import errno
import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import uuid4

MOST_BYTES = 1 << 26
"""Of a JSON file, or of a line of one that has lines."""
VERSION = re.compile(r"v(\d{3,})")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems say that have no locks."""


def user_path(text: str | Path) -> Path:
    """A path whose ~ is the user's home. Unlike Path.expanduser it leaves the home of a user who does not exist as it is, a
    name like any other."""
    return Path(os.path.expanduser(text))


def newest(path: Path) -> Path:
    """A path in which `latest` is replaced by the folder of the highest version, unless it is a link. A copy of a run
    folder often has an old version there in place of the link."""
    for at in (path, *path.parents):
        if at.name == "latest" and not (at.is_symlink() and at.exists()):
            for version in versions(at.parent):
                if any(version.iterdir()):
                    return newest(version.parent) / version.name / path.relative_to(at)
    return path


def versions(parent: Path) -> list[Path]:
    """The folders vNNN, the newest first."""
    found = [p for p in parent.glob("v*") if VERSION.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[1:]), reverse=True)


def warn(line: str) -> None:
    print(f"rws: {line}", file=sys.stderr, flush=True)


@contextmanager
def file_lock(lock: Path | None) -> Iterator[None]:
    """Wait for a lock file and hold it: one process, and one thread of it, at a time. None: nothing."""
    if lock is None:
        yield
        return
    with open_lock(lock) as file:
        hold(file, wait=True)
        yield


def open_lock(path: Path) -> IO[str]:
    """A file to be locked. It is no link, for what a link leads to would be overwritten."""
    return open(path, "a+", encoding="utf-8", opener=lambda at, flags: os.open(at, flags | os.O_NOFOLLOW, 0o666))


def hold(file: IO[str], wait: bool) -> None:
    """Lock an open file until it is closed. Where the file system has no locks, go on without and say so.

    Raises OSError if another process holds it and there is no waiting.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{Path(file.name).parent} has no locks ({error.strerror}): let no other process write there")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of `path` in one move, or is removed if writing fails."""
    fresh = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content in one move, so that a reader never sees half of it, whoever else writes it.

    A path that is not UTF-8 has lone surrogates: they are written as JSON's escapes, which read back as they were.
    """
    with replacing(path) as fresh, fresh.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    write_whole(path, as_json(value))


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def open_regular(path: Path) -> BinaryIO:
    """A file to read. Raises OSError for what is none: a folder, or a pipe, which would never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


def whole(file: BinaryIO, line: bool = False) -> bytes:
    """What a file holds, or its next line. Raises ValueError if that is more than a record has."""
    read = file.readline if line else file.read
    if len(text := read(MOST_BYTES + 1)) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes {'in a line' if line else ''}".rstrip())
    return text
