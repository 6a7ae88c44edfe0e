"""Generated programs, run where they can do little harm: `run` gives a program a moment of its own and says if it ended.

What stands around a program (see jail.py): no network, no new processes, no signals to others, no files but Python's
own and a temporary folder, an empty environment, and of the kernel's other calls only those that concern the program
alone; limits on processor time, wall time, memory and the size of a file. It is killed when the process that started it
ends, however that ends; after a SIGKILL its temporary folder stays.

A program runs as under the published harnesses (`human_eval`, `code_eval`): `exec` with empty globals, so that
`__name__` is not `__main__`; standard input is empty; what it prints goes nowhere. Processor time decides, so that grades
do not depend on what else the machine does; a program that sleeps is ended by wall time, which is far longer. The seeds
of hashes and of `random` are fixed. Clocks, addresses of objects and other sources of chance are not.

What it does not stop: bugs of the kernel; reading what is under /usr and in Python's own folders (no secrets belong
there); asking for any path whether it exists, its size and times, the target of a link; using a core and the allowed
memory until time is up; filling the temporary folder with many files; telling the machine's state (clock, processor).

Nor does it stop a program that fakes a pass, which the published harnesses stop no better: an answer whose `__eq__` is
always true, a trace function that jumps over an assertion, a search through the interpreter's memory for the secret that
says "passed". For code that is worse than a model's mistakes, use a virtual machine.
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
    """passed: the program ran to its end. reason: "" or, in a line, why not ("timeout", the exception)."""

    passed: bool
    reason: str


@cache
def check_supported() -> None:
    """Raises UsageError where the sandbox cannot be built: generated code then does not run at all."""
    why = "not Linux on x86-64 or 64-bit ARM"
    if sys.platform == "linux" and platform.machine() in jail.SYSTEMS:
        why = "no Landlock (Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and the container's permission)"
        if jail.landlock_version():
            try:
                run("")
                return
            except RunError as error:
                why = str(error)
    raise UsageError(f"Generated code runs only in a sandbox, which this machine does not allow: {why}.")


def wall_seconds(seconds: float) -> float:
    """How long a program may take by the clock: long enough for `seconds` of processor time on a machine with much to do."""
    return 5 + 5 * seconds


def run(program: str, seconds: float = 5.0, memory: int = 1 << 30) -> Outcome:
    """Run a Python program alone. seconds: processor time, of all its threads; memory: address space, in bytes.

    Raises RunError where the sandbox, not the program, fails.
    """
    secret = secrets.token_hex(16)
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as answers,
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
        except subprocess.TimeoutExpired:  # which kills it, as any exception does
            code = -signal.SIGKILL
        done.close()
        said = answers.read(4096)
        if not said.startswith(jail.BEGUN):
            err.seek(0)
            raise RunError(f"The sandbox failed: {_last_line(err.read()) or _end(code)}")
    said = said.removeprefix(jail.BEGUN)
    if said == secret.encode():
        return Outcome(True, "")
    return Outcome(False, "timeout" if code == -signal.SIGKILL else _last_line(said) or _end(code))


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or [""])[-1][:300]


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def temporary_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="rws-")
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: str) -> None:
    """Remove a folder, whatever a program has put there; what cannot be removed stays.

    shutil.rmtree fails at a tree that is deeper than Python recurses, or than a path is long. Here what lies in an inner
    folder moves up first, so that nothing is deep.
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
