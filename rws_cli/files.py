"""Atomic writes, file locks, and reads with a size limit."""

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
"""The largest JSON file, or line of a JSON Lines file, that is read."""
VERSION = re.compile(r"v(\d{3,})")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors from file systems without locks."""


def user_path(text: str | Path) -> Path:
    """A path with ~ expanded. Unlike Path.expanduser, it leaves the home of an unknown user unchanged instead of failing."""
    return Path(os.path.expanduser(text))


def newest(path: Path) -> Path:
    """A path with `latest` replaced by the folder of the highest version, unless `latest` is a link. In a copied run folder
    the link has often become a copy of an old version."""
    for part in (path, *path.parents):
        if part.name == "latest" and not (part.is_symlink() and part.exists()):
            for version in versions(part.parent):
                if any(version.iterdir()):
                    return newest(version.parent) / version.name / path.relative_to(part)
    return path


def versions(parent: Path) -> list[Path]:
    """The folders vNNN, newest first."""
    folders = [p for p in parent.glob("v*") if VERSION.fullmatch(p.name)]
    return sorted(folders, key=lambda p: int(p.name[1:]), reverse=True)


def warn(line: str) -> None:
    print(f"rws: {line}", file=sys.stderr, flush=True)


@contextmanager
def file_lock(lock: Path | None) -> Iterator[None]:
    """Wait for a lock file and hold it; one thread of one process at a time. None: no lock."""
    if lock is None:
        yield
        return
    with open_lock(lock) as file:
        acquire_lock(file, wait=True)
        yield


def open_lock(path: Path) -> IO[str]:
    """Open a file to be locked. Fails for a link, so that its target is not overwritten."""
    return open(path, "a+", encoding="utf-8", opener=lambda at, flags: os.open(at, flags | os.O_NOFOLLOW, 0o666))


def acquire_lock(file: IO[str], wait: bool) -> None:
    """Lock an open file until it is closed. On a file system without locks, warn and continue without.

    Raises OSError if another process holds it and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{Path(file.name).parent} has no locks ({error.strerror}): make sure that no other process writes there")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, which atomically replaces `path`, or is removed if writing fails."""
    fresh = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content atomically: a reader never sees half of it, even with several writers.

    Lone surrogates (from paths that are not UTF-8) are written as JSON escapes, which read back unchanged.
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
    """Open a file to read. Raises OSError if it is not a regular file, such as a folder or a pipe, which might never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


def read_limited(file: BinaryIO, line: bool = False) -> bytes:
    """The rest of a file, or its next line. Raises ValueError if that is more than MOST_BYTES."""
    read = file.readline if line else file.read
    if len(text := read(MOST_BYTES + 1)) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes {'in a line' if line else ''}".rstrip())
    return text
