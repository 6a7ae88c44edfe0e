"""The inside of the sandbox: run as `python -I jail.py`, it locks itself in and then runs the program it is given.

Standard input holds a JSON line (limits, a folder to write in, a secret) and then the program. When the program has
run to its end the secret goes to the file descriptor that was named; a program that exits early, by whatever code, says nothing.

Landlock closes the file system but for Python itself, shared libraries and the folder; seccomp refuses sockets, new
processes, signals to anyone and tracing; resource limits bound the rest. None of it needs privileges. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable

NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
FILE_RIGHTS = EXECUTE | 1 << 1 | READ_FILE | 1 << 14
"""The rights that a rule on a single file may grant: execute, write, read, truncate."""
READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom")

# Architecture (AUDIT_ARCH_*) and the numbers of system calls there.
SYSTEMS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "socket": 41, "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "ptrace": 101, "rt_sigqueueinfo": 129,
        "setrlimit": 160, "chroot": 161, "mount": 165, "tkill": 200, "tgkill": 234, "unshare": 272,
        "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "prlimit64": 302, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323, "capset": 126,
        # What Landlock leaves open: owners, modes, times and attributes of files, and memory that outlives a process.
        "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "utime": 132, "utimes": 235,
        "fchownat": 260, "futimesat": 261, "fchmodat": 268, "utimensat": 280, "setxattr": 188, "lsetxattr": 189,
        "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "shmget": 29, "semget": 64,
        "msgget": 68, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250,
    }),
    "aarch64": (0xC00000B7, {
        "socket": 198, "clone": 220, "kill": 129, "ptrace": 117, "rt_sigqueueinfo": 138, "setrlimit": 164,
        "chroot": 51, "mount": 40, "tkill": 130, "tgkill": 131, "unshare": 97, "rt_tgsigqueueinfo": 240,
        "perf_event_open": 241, "prlimit64": 261, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "bpf": 280, "userfaultfd": 282, "capset": 91,
        "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
        "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "shmget": 194, "semget": 190,
        "msgget": 186, "mq_open": 180, "add_key": 217, "request_key": 218, "keyctl": 219,
    }),
}  # fmt: skip
EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466,
}  # fmt: skip
CLONE_THREAD = 0x10000

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments: object) -> int:
    """A system call. Raises OSError where it fails."""
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def landlock_version() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return call(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0


def close_files(readable: Iterable[str], writable: str) -> None:
    """Let this process read (and execute) what lies under `readable`, do anything under `writable`, and no more."""
    version = landlock_version()
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    # Version 6 can also keep signals and abstract sockets within the sandbox.
    attributes = struct.pack("<QQQ", rights, 0, 3)[: 24 if version >= 6 else 8]
    ruleset = call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in (*readable, writable):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            granted = rights if path == writable else EXECUTE | READ_FILE | READ_DIR
            if not os.path.isdir(path):
                granted &= FILE_RIGHTS
            call(ADD_RULE, ruleset, 1, struct.pack("<Qi", granted, descriptor), 0)
            os.close(descriptor)
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def refuse_calls() -> None:
    """A seccomp filter: the listed system calls fail, clone makes threads alone, any other architecture is killed."""
    audit, numbers = SYSTEMS[platform.machine()]
    load, jump_equal, jump_if_set, jump_above, result = 0x20, 0x15, 0x45, 0x25, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    numbers = numbers | EVERYWHERE
    clone, clone3 = numbers.pop("clone"), numbers.pop("clone3")
    program = [
        (load, 0, 0, 4), (jump_equal, 1, 0, audit), (result, 0, 0, kill),
        (load, 0, 0, 0), (jump_above, 0, 1, 0x3FFFFFFF), (result, 0, 0, refuse),  # the x32 calls of x86-64
        (jump_equal, 0, 1, clone3), (result, 0, 0, 0x00050000 | errno.ENOSYS),  # the C library then falls back to clone
    ]  # fmt: skip
    for number in numbers.values():
        program += [(jump_equal, 0, 1, number), (result, 0, 0, refuse)]
    program += [
        (jump_equal, 0, 3, clone), (load, 0, 0, 16), (jump_if_set, 1, 0, CLONE_THREAD), (result, 0, 0, refuse),
        (result, 0, 0, allow),
    ]  # fmt: skip
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    wrapped = struct.pack("<H6xQ", len(program), ctypes.addressof(buffer))
    if libc.prctl(SECCOMP, FILTER, wrapped, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_privileges() -> None:
    """Give up every capability, for good; a root without them can raise no limit."""
    header = struct.pack("<Ii", 0x20080522, 0)
    call(SYSTEMS[platform.machine()][1]["capset"], header, bytes(24))
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def limit(seconds: int, memory: int, file_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def main() -> None:
    order = json.loads(sys.stdin.readline())
    program = sys.stdin.read()
    readable = {*READABLE, sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.realpath(sys.executable)}
    limit(order["seconds"], order["memory"], order["file_bytes"])
    drop_privileges()
    close_files(sorted(readable), order["folder"])
    refuse_calls()
    exec(compile(program, "answer.py", "exec"), {"__name__": "__main__"})  # nosec B102: what the sandbox is for
    sys.stdout.flush()
    os.write(order["done"], order["secret"].encode())


if __name__ == "__main__":
    main()
