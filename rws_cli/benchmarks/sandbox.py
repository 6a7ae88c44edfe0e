"""Generated programs, run where they can do little harm: `run` gives a program a moment of its own and says if it ended.

What stands around a program (see jail.py): no network, no new processes, no signals to others, no files but Python's
own and a temporary folder, an empty environment; limits on processor time, wall time, memory, file size and output.

What it does not stop: bugs of the kernel; reading what is under /usr and in Python's own folders (no secrets belong
there); using a core and the allowed memory until time is up; filling the temporary folder with many files; telling the
machine's state (clock, processor); a program that searches its own interpreter for the secret that says "passed". For
code that is worse than a model's mistakes, use a virtual machine.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from rws_cli.benchmarks import jail
from rws_cli.errors import UsageError

OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """passed: the program ran to its end. reason: "" or, in a line, why not ("timeout", the exception)."""

    passed: bool
    reason: str


def check_supported() -> None:
    """Raises UsageError where the sandbox cannot be built: generated code then does not run at all."""
    if sys.platform != "linux" or platform.machine() not in jail.SYSTEMS or not jail.landlock_version():
        raise UsageError(
            "Generated code runs only in a sandbox that needs Linux 5.13 or later on x86-64 or ARM, with Landlock "
            "(CONFIG_SECURITY_LANDLOCK, and the container's permission): here there is none."
        )


def run(program: str, seconds: float = 5.0, memory: int = 1 << 30) -> Outcome:
    """Run a Python program alone. seconds: wall time (and about as much processor time); memory: address space, in bytes."""
    secret = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="rws-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        reading, writing = os.pipe()
        order = {"seconds": math.ceil(seconds) + 1, "memory": memory, "file_bytes": OUTPUT_BYTES, "folder": folder,
                 "secret": secret, "done": writing}  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-I", str(jail.__file__)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=folder,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            process.communicate((json.dumps(order) + "\n" + program).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Outcome(False, "timeout")
        finally:
            said = os.read(reading, 64)
            os.close(reading)
        if said == secret.encode():
            return Outcome(True, "")
        if process.returncode == -signal.SIGKILL:  # the limit on processor time, which threads use up sooner
            return Outcome(False, "timeout")
        err.seek(0)
        lines = err.read().decode(errors="replace").strip().splitlines()
        return Outcome(False, lines[-1][:300] if lines else f"exit code {process.returncode}")
