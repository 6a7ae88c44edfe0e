"""The inside of the sandbox: run as `python -s -P jail.py`, it restricts its own process and then runs a program.

Standard input is a JSON line (see sandbox.run) followed by the program. The result goes to the file descriptor `done`:
BEGUN once all restrictions are in place, then the secret if the program ran to its end, else the exception on one line.
A program that exits early, with any exit code, does not send the secret.

Landlock blocks the file system except Python itself, shared libraries and the temporary folder. Seccomp only allows
system calls that concern the program's own memory, threads and files, so that nothing depends on what the kernel's
version of Landlock leaves open. Resource limits bound the rest. None of this needs privileges. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterable

BEGUN = b"begun "
SET_DEATH_SIGNAL, SECCOMP, NO_NEW_PRIVILEGES, FILTER = 1, 22, 38, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
FILE_RIGHTS = EXECUTE | 1 << 1 | READ_FILE | 1 << 14
"""The rights that a rule on a single file may grant: execute, write, read, truncate."""
READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/urandom")


def listed_calls(column: int) -> dict[str, int]:
    """The system calls that a program may make: name → number, from a column of syscalls.txt."""
    with open(os.path.join(os.path.dirname(__file__), "syscalls.txt"), encoding="ascii") as table:
        rows = [line.split() for line in table if line.strip() and not line.startswith("#")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# Machine → architecture (AUDIT_ARCH_*), system calls that the jail itself makes, and those that a program may make.
SYSTEMS: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "x86_64": (0xC000003E, {"capset": 126, "timer_create": 222, "timer_settime": 223}, listed_calls(1)),
    "aarch64": (0xC00000B7, {"capset": 91, "timer_create": 107, "timer_settime": 110}, listed_calls(2)),
}
EVERYWHERE = {"close_range": 436, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449}
NEWER = 424
"""From this number on, system calls have the same number on all architectures, and C libraries work without them."""

CLONE_THREAD, ACCESS_MODE, TRUNCATE, ALL_BITS = 0x10000, 0o3, 0o1000, 0xFFFFFFFF
# Truncating needs a writable descriptor, because Landlock before version 3 does not restrict truncation.
OPENING = {0, 1, 2, 1 | TRUNCATE, 2 | TRUNCATE}
# System call → restrictions: index of the argument word (two per argument, the lower first), its bits, allowed values.
# The kernel reads commands, requests and flags from the lower word only.
ARGUMENTS: dict[str, list[tuple[int, int, set[int]]]] = {
    "clone": [(0, CLONE_THREAD, {CLONE_THREAD})],
    "open": [(2, ACCESS_MODE | TRUNCATE, OPENING)],
    "openat": [(4, ACCESS_MODE | TRUNCATE, OPENING)],
    # duplication, flags, record locks, pipe size and seals; no owner or signal, which reach other processes, and no lease
    "fcntl": [(2, ALL_BITS, {0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034})],
    # is it a terminal (two ways), its size, bytes waiting, non-blocking, close-on-exec; no owner, device or file flags
    "ioctl": [(2, ALL_BITS, {0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451})],
    "prctl": [(0, ALL_BITS, {15, 16, 0x53564D41})],  # names of threads and of memory
    "socketpair": [(0, ALL_BITS, {1})],  # AF_UNIX
    "sendto": [(8, ALL_BITS, {0}), (9, ALL_BITS, {0})],  # to the connected end only, not to an address
    "prlimit64": [(0, ALL_BITS, {0}), (4, ALL_BITS, {0}), (5, ALL_BITS, {0})],  # only reading its own limits
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """The result of a C library call. Raises OSError if it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def landlock_version() -> int:
    """The kernel's Landlock version; 0 if it has none."""
    try:
        return check(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    except OSError:
        return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason."""
    check(libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:  # it ended already
        os._exit(1)


def limit(what: int, most: int) -> None:
    """Set a resource limit permanently, unless it is lower already."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def limit_time(seconds: float) -> None:
    """Have the kernel kill this process after this much more processor time, summed over its threads.

    The resource limit would count whole seconds, from the start of the interpreter. The program can neither stop this
    timer nor catch its signal.
    """
    calls, event, timer = SYSTEMS[platform.machine()][1], struct.pack("<Qi52x", 0, signal.SIGKILL), ctypes.c_int()
    check(libc.syscall(calls["timer_create"], time.CLOCK_PROCESS_CPUTIME_ID, event, ctypes.byref(timer)))
    due = struct.pack("<4q", 0, 0, *divmod(max(1, int(seconds * 1e9)), 10**9))
    check(libc.syscall(calls["timer_settime"], timer, 0, due, None))


def drop_privileges() -> None:
    """Give up all capabilities permanently; without them, not even root can raise a limit."""
    header = struct.pack("<Ii", 0x20080522, 0)
    check(libc.syscall(SYSTEMS[platform.machine()][1]["capset"], header, bytes(24)))
    check(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def close_files(readable: Iterable[str], writable: str) -> None:
    """Allow this process to read and execute files below `readable`, to do anything below `writable`, and nothing else."""
    version = landlock_version()
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    # Version 6 can also keep signals and abstract sockets within the sandbox.
    attributes = struct.pack("<QQQ", rights, 0, 3)[: 24 if version >= 6 else 8]
    ruleset = check(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path in (*readable, "/dev/null", writable):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            granted = rights if path in ("/dev/null", writable) else EXECUTE | READ_FILE | READ_DIR
            if not os.path.isdir(path):
                granted &= FILE_RIGHTS
            check(libc.syscall(ADD_RULE, ruleset, 1, struct.pack("<Qi", granted, descriptor), 0))
            os.close(descriptor)
    check(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def refuse_calls() -> None:
    """Install a seccomp filter. Calls that are not listed fail with EPERM, or ENOSYS for new ones, so that the C library
    falls back to older ones; a call of another architecture kills the process."""
    architecture, _, numbers = SYSTEMS[platform.machine()]
    load, mask, jump_equal, jump_at_least, result = 0x20, 0x54, 0x15, 0x35, 0x06
    allow, kill, fail = 0x7FFF0000, 0x80000000, 0x00050000
    refuse, unknown = fail | errno.EPERM, fail | errno.ENOSYS
    program = [(load, 0, 0, 4), (jump_equal, 1, 0, architecture), (result, 0, 0, kill), (load, 0, 0, 0)]
    for name, number in (numbers | EVERYWHERE).items():
        block = []
        for word, bits, values in ARGUMENTS.get(name, []):
            block += [(load, 0, 0, 16 + 4 * word), (mask, 0, 0, bits)]
            block += [
                (jump_equal, left, 0, value) for left, value in zip(range(len(values), 0, -1), values, strict=True)
            ]
            block += [(result, 0, 0, refuse)]
        program += [(jump_equal, 0, len(block) + 1, number), *block, (result, 0, 0, allow)]
    program += [(jump_at_least, 0, 1, NEWER), (result, 0, 0, unknown), (result, 0, 0, refuse)]
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    wrapped = struct.pack("<H6xQ", len(program), ctypes.addressof(buffer))
    check(libc.prctl(SECCOMP, FILTER, wrapped, 0, 0))


def one_line(error: BaseException) -> str:
    """An exception's type and message. The program may have overridden `__str__` so that it fails."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(":")
    except Exception:
        return type(error).__name__[:300]


def main() -> None:
    """Restrict this process, run the program, and report."""
    order = json.loads(sys.stdin.buffer.readline())
    program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    die_with(order["parent"])
    readable = {*READABLE, sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.realpath(sys.executable)}
    limit(resource.RLIMIT_AS, order["memory"])
    limit(resource.RLIMIT_FSIZE, order["file_bytes"])
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)
    drop_privileges()
    limit_time(order["seconds"])
    close_files(sorted(readable), order["folder"])
    refuse_calls()
    random.seed(0)
    done = order["done"]
    os.write(done, BEGUN)
    os.dup2(1, 2)  # discard what it prints
    try:
        # While the program runs, the secret is only on the interpreter's stack: it is not a variable of any frame, and the
        # garbage collector does not list it. As in the published harnesses, globals are empty.
        secret, _ = order.pop("secret"), exec(program, {})  # type: ignore[func-returns-value]  # nosec B102
        os.write(done, secret.encode())
    except MemoryError:
        os.write(done, b"MemoryError")
    except BaseException as error:
        os.write(done, one_line(error).encode(errors="replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
