"""Run generated programs in a sandbox, where they can do little harm, and report whether they ran to their end.

Restrictions (see jail.py): no network, no new processes, no signals to others, no files except Python's own and a
temporary folder, an empty environment, and only system calls that concern the program itself; limits on processor time,
wall time, memory and file size. The program is killed when the process that started it ends, for whatever reason; if that
is a SIGKILL, the temporary folder is left behind.

Programs run as in the published harnesses (`human_eval`, `code_eval`): `exec` with empty globals, so `__name__` is not
`__main__`; standard input is empty; output is discarded. The processor time limit decides, so that grades do not depend
on the machine's load; a sleeping program is stopped by the much longer wall time limit. The seeds of hashes and `random`
are fixed; clocks, object addresses and other sources of chance are not.

Not prevented: kernel bugs; reading files in /usr and Python's own folders (no secrets belong there); checking whether a
path exists, its size and times, and the target of a link; using one core and the allowed memory until time is up; filling
the temporary folder with many files; reading the machine's state (clock, processor).

Also not prevented, as in the published harnesses: a program that fakes a pass, by an object whose `__eq__` is always
true, a trace function that skips an assertion, or a search of the interpreter's memory for the secret that means
"passed". For code that is more hostile than a model's mistakes, use a virtual machine.
"""

import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from rws_cli.benchmarks import jail
from rws_cli.errors import RunError, UsageError

FILE_BYTES = 1 << 20
COMMAND = [sys.executable, "-s", "-P", str(jail.__file__)]
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """passed: whether the program ran to its end. reason: why not, on one line ("timeout", the exception); else ""."""

    passed: bool
    reason: str


@cache
def check_supported() -> None:
    """Raises UsageError if this machine does not support the sandbox; generated code then never runs."""
    why = "not Linux on x86-64 or 64-bit ARM"
    if sys.platform == "linux" and platform.machine() in jail.SYSTEMS:
        why = "no Landlock (Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and the container's permission)"
        if jail.landlock_version():
            try:
                run("")
                return
            except RunError as error:
                why = str(error)
    raise UsageError(
        f"Generated code only runs in a sandbox, which this machine does not support: {why}. Use another machine."
    )


def wall_seconds(seconds: float) -> float:
    """The wall time limit: long enough for `seconds` of processor time on a busy machine."""
    return 5 + 5 * seconds


def run(program: str, seconds: float = 5.0, memory: int = 1 << 30) -> Outcome:
    """Run a Python program in the sandbox. seconds: processor time of all its threads; memory: address space in bytes.

    Raises RunError if the sandbox itself fails.
    """
    secret = secrets.token_hex(16)
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as results,
        os.fdopen(writing, "wb") as done,
        temporary_folder() as folder,
        tempfile.TemporaryFile() as err,
    ):
        order = {"seconds": seconds, "memory": memory, "file_bytes": FILE_BYTES, "folder": folder, "secret": secret,
                 "done": writing, "parent": os.getpid()}  # fmt: skip
        try:
            code = subprocess.run(
                COMMAND,
                input=json.dumps(order).encode() + b"\n" + program.encode("utf-8", "surrogatepass"),
                stdout=subprocess.DEVNULL,
                stderr=err,
                cwd=folder,
                env=ENVIRONMENT,
                pass_fds=(writing,),
                start_new_session=True,
                timeout=wall_seconds(seconds),
            ).returncode
        except subprocess.TimeoutExpired:  # the process has been killed, as for any exception
            code = -signal.SIGKILL
        done.close()
        output = results.read(4096)
        if not output.startswith(jail.BEGUN):
            err.seek(0)
            raise RunError(f"The sandbox failed: {_last_line(err.read()) or _exit_cause(code)}")
    result = output.removeprefix(jail.BEGUN)
    if result == secret.encode():
        return Outcome(True, "")
    return Outcome(False, "timeout" if code == -signal.SIGKILL else _last_line(result) or _exit_cause(code))


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or [""])[-1][:300]


def _exit_cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def temporary_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="rws-")
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: str) -> None:
    """Remove a folder, whatever a program has put there; what cannot be removed is left behind.

    shutil.rmtree fails for a tree that is deeper than Python's recursion limit or the longest path. Here, inner folders
    are moved up first, so that nothing is deep.
    """
    with suppress(OSError):
        places = [folder]
        for place in places:
            for entry in os.scandir(place):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                places.append(os.path.join(folder, f"{len(places)} {secrets.token_hex(8)}"))
                os.rename(entry.path, places[-1])
        for place in reversed(places):
            os.rmdir(place)
