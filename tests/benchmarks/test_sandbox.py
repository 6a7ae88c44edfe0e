"""What generated programs might try, and that it comes to nothing."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rws_cli.benchmarks import jail, sandbox
from rws_cli.errors import RunError, UsageError

pytestmark = pytest.mark.skipif(not jail.landlock_version(), reason="this kernel has no Landlock")


def test_a_program_that_ends_passes() -> None:
    assert sandbox.run("import math, json, collections, numpy\nassert math.gcd(12, 18) == 6\nprint('fine')").passed
    failed = sandbox.run("assert 1 == 2, 'one is not two'")
    assert (failed.passed, failed.reason) == (False, "AssertionError: one is not two")
    assert sandbox.run("def f(:").reason.startswith("SyntaxError")


@pytest.mark.parametrize("early", ["exit()", "import os; os._exit(0)", "raise SystemExit(0)", "quit(0)"])
def test_leaving_early_is_not_passing(early: str) -> None:
    assert not sandbox.run(f"{early}\nassert False").passed


def test_files_are_out_of_reach(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hunter2")
    outside = tmp_path / "made"
    before = secret.stat()
    for attempt in (
        f"import os; os.chmod({str(secret)!r}, 0o777)",
        f"import os; os.chown({str(secret)!r}, 1, 1)",
        f"import os; os.utime({str(secret)!r}, (0, 0))",
        f"import os; os.setxattr({str(secret)!r}, 'user.mine', b'x')",
        f"import os; os.truncate({str(secret)!r}, 0)",
        f"import os; os.link({str(secret)!r}, 'mine')",
        f"open({str(secret)!r}).read()",
        f"open({str(outside)!r}, 'w')",
        f"import os; os.unlink({str(secret)!r})",
        f"import os; os.rename({str(secret)!r}, 'mine')",
        f"import os; os.mkdir({str(outside)!r})",
        f"import os; os.symlink({str(secret)!r}, 'link'); open('link').read()",
        "import os; os.listdir(os.path.expanduser('~'))",
        "import os; os.listdir('/')",
        f"open('/proc/{os.getpid()}/environ').read()",
        "open('/etc/passwd').read()",
    ):
        outcome = sandbox.run(attempt)
        assert not outcome.passed, attempt
        refused = ("PermissionError", "cross-device")
        assert any(words in outcome.reason for words in refused), (attempt, outcome)
    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert secret.read_text() == "hunter2"
    assert not outside.exists()
    assert sandbox.run("open('mine', 'w').write('x'); assert open('mine').read() == 'x'").passed


REFUSED = """
import array, ctypes, errno, fcntl, os, socket, struct
libc, through = ctypes.CDLL(None, use_errno=True), []

def attempt(name, call, *arguments):
    ctypes.set_errno(0)
    try:
        if call(*arguments) == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
            return
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOSYS):
            return
    through.append(name)

ATTEMPTS
assert not through, through
"""
"""A program that names in its last line what it was not refused."""


def refused(attempts: str) -> str:
    return REFUSED.replace("ATTEMPTS", attempts)


def on_kernel(version: int, readable: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the sandbox use no more of Landlock than a kernel with this version of it has; 0: than this kernel has."""
    script = folder / "older.py"
    script.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('jail', {jail.__file__!r})\n"
        "jail = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(jail)\n"
        f"jail.landlock_version = lambda real=jail.landlock_version: {version} or real()\n"
        f"jail.READABLE += ({str(readable)!r},)\n"
        "jail.main()\n"
    )
    monkeypatch.setattr(sandbox, "COMMAND", [*sandbox.COMMAND[:-1], str(script)])


@pytest.mark.parametrize("version", [1, 2, 5, 0])
def test_what_a_version_of_landlock_leaves_open_is_refused_all_the_same(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readable, secret = tmp_path / "python" / "module.py", tmp_path / "thesis.txt"
    readable.parent.mkdir()
    for file in (readable, secret):
        file.write_text("years of work")
    on_kernel(version, readable.parent, monkeypatch, tmp_path)
    victim = subprocess.Popen(["sleep", "60"])
    address = f"\0rws-{os.getpid()}-{version}"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as named,
    ):
        abstract.bind(address)
        named.bind(str(tmp_path / "log"))
        outcome = sandbox.run(
            refused(f"""
assert open({str(readable)!r}).read() == 'years of work'
for path in ({str(readable)!r}, {str(secret)!r}):
    attempt('truncate', os.truncate, path, 0)
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_ACCMODE):
        attempt(f'truncate by opening in mode {{mode}}', os.open, path, mode | os.O_TRUNC)
    attempt('move', os.rename, path, 'mine')
    attempt('link', os.link, path, 'mine')
os.mkdir('here')
attempt('move out', os.rename, 'here', {str(tmp_path / "there")!r})

device = os.open('/dev/urandom', os.O_RDONLY)
attempt('ioctl on a device', fcntl.ioctl, device, 0x80045200, bytes(4))  # RNDGETENTCNT
file = os.open({str(readable)!r}, os.O_RDONLY)
attempt('flags of a file', fcntl.ioctl, file, 0x40086602, struct.pack('q', 0))  # FS_IOC_SETFLAGS
attempt('lease', fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK)

ours, theirs = os.pipe()
attempt('owner', fcntl.fcntl, ours, fcntl.F_SETOWN, {victim.pid})
attempt('owner by structure', fcntl.fcntl, ours, 15, struct.pack('ii', 1, {victim.pid}))
attempt('high bits', libc.syscall, {jail.SYSTEMS[platform.machine()][2]["fcntl"]}, ours,
        ctypes.c_ulong(1 << 32 | 8), {victim.pid})
attempt('signal', fcntl.fcntl, ours, fcntl.F_SETSIG, 9)
for request in (0x8901, 0x8902):  # FIOSETOWN, SIOCSPGRP
    attempt('owner by ioctl', fcntl.ioctl, ours, request, struct.pack('i', {victim.pid}))
fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
os.write(theirs, b'x')
attempt('kill', os.kill, {victim.pid}, 9)
attempt('its pidfd', os.pidfd_open, {victim.pid})

for address in ({address!r}, {str(tmp_path / "log")!r}):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    attempt('send to a name', one.sendto, b'x', address)
    attempt('message to a name', one.sendmsg, [b'x'], [], 0, address)
    attempt('connect', one.connect, address)
one.send(b'between its own ends')
assert other.recv(99) == b'between its own ends'
""")
        )
        assert outcome.passed, outcome
        for receiver in (abstract, named):
            receiver.setblocking(False)
            with pytest.raises(BlockingIOError):
                receiver.recv(1)
    assert victim.poll() is None
    victim.kill()
    victim.wait()
    assert [file.read_text() for file in (readable, secret)] == ["years of work"] * 2
    assert not (tmp_path / "there").exists()


def test_what_lies_beyond_its_process_is_out_of_reach() -> None:
    """The process that starts the sandbox has no capabilities either, as that of an ordinary user: the kernel alone
    would not refuse a process to lower the other's priority."""
    libc = ctypes.CDLL(None)
    shared = [libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)]
    program = refused(f"""
parent, (memory, semaphore, queue) = os.getppid(), {shared}
libc.shmat.restype = ctypes.c_long
attempt('shmat', libc.shmat, memory, None, 0)
attempt('shmctl', libc.shmctl, memory, 0, None)
attempt('shmget', libc.shmget, 7, 1 << 20, 0o1600)
attempt('semop', libc.semop, semaphore, struct.pack('Hhh', 0, 1, 0), 1)
attempt('semtimedop', libc.semtimedop, semaphore, struct.pack('Hhh', 0, 1, 0), 1, None)
attempt('semctl', libc.semctl, semaphore, 0, 0)
attempt('msgsnd', libc.msgsnd, queue, struct.pack('q8s', 1, b'x'), 8, 0)
attempt('msgrcv', libc.msgrcv, queue, bytes(16), 8, 0, 0o4000)
attempt('msgctl', libc.msgctl, queue, 0, None)
attempt('setpriority', os.setpriority, os.PRIO_PROCESS, parent, 5)
attempt('sched_setaffinity', os.sched_setaffinity, parent, {{0}})
attempt('sched_setscheduler', os.sched_setscheduler, parent, os.SCHED_IDLE, os.sched_param(0))
attempt('sched_setparam', os.sched_setparam, parent, os.sched_param(0))
attempt('prlimit', libc.prlimit64, parent, 7, struct.pack('QQ', 64, 64), None)
attempt('its own limits', libc.prlimit64, 0, 7, struct.pack('QQ', 64, 64), None)
attempt('its end with the parent', libc.prctl, 1, 0, 0, 0, 0)
attempt('inotify', libc.inotify_init)
attempt('mq_open', libc.mq_open, b'/queue', os.O_CREAT | os.O_RDWR, 0o600, None)
attempt('quotactl', libc.quotactl, 0x80000100, None, 0, None)
attempt('sethostname', libc.sethostname, b'x', 1)
attempt('execve', os.execv, '/bin/true', ['true'])
for number in {beyond()}:
    attempt(number, libc.syscall, number, 0, 0, 0, 0, 0)
""")
    parent = subprocess.run(
        [
            sys.executable, "-c",
            "import os, sys\nfrom rws_cli.benchmarks import jail, sandbox\njail.drop_privileges()\n"
            "before = os.getpriority(0, 0), os.sched_getaffinity(0), os.sched_getscheduler(0)\n"
            "outcome = sandbox.run(sys.stdin.read())\n"
            "assert (os.getpriority(0, 0), os.sched_getaffinity(0), os.sched_getscheduler(0)) == before\n"
            "print(outcome)",
        ],
        input=program, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for call, number in zip((libc.shmctl, lambda i, *_: libc.semctl(i, 0, 0), libc.msgctl), shared, strict=True):
        assert call(number, 0, None) == 0  # still there, until now
    assert parent.stdout == "Outcome(passed=True, reason='')\n", parent


def beyond() -> list[int]:
    """The newest system calls: of mounts, of other processes, of files' attributes. Numbers are the same everywhere."""
    return [*range(424, 436), 438, 440, 442, 443, 448, 450, 452, *range(457, 462), *range(463, 470)]


def test_system_calls_have_the_numbers_of_the_kernels_headers() -> None:
    include = Path("/usr/include")
    files = {
        "x86_64": include / "x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": include / "asm-generic/unistd.h",  # ARM has the generic numbers
    }
    if not all(file.exists() for file in files.values()):
        pytest.skip("the kernel's headers are not available")
    for machine, file in files.items():
        defined = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", file.read_text())
        known = {name: int(number) for name, number in defined}
        if machine == "aarch64":
            known["newfstatat"] = known["fstatat"]
        _, own, allowed = jail.SYSTEMS[machine]
        numbers = own | allowed | jail.EVERYWHERE
        assert {name: known.get(name) for name in numbers} == numbers
        assert set(jail.ARGUMENTS) - {"open"} <= set(allowed)


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        assert "PermissionError" in outcome.reason
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "attempt",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import multiprocessing as m; p = m.Process(target=print); p.start()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_no_processes(attempt: str) -> None:
    outcome = sandbox.run(attempt)
    assert not outcome.passed
    assert "PermissionError" in outcome.reason or "not permitted" in outcome.reason


def test_the_parent_cannot_be_killed() -> None:
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    try:
        outcome = sandbox.run("import os, signal; os.kill(os.getppid(), signal.SIGTERM)")
        everyone = sandbox.run("import os, signal; os.kill(-1, signal.SIGTERM)")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not caught
    assert "PermissionError" in outcome.reason
    assert "PermissionError" in everyone.reason


def children(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if str(jail.__file__) in child.cmdline()]


def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); open('begun', 'w'); time.sleep(60)"
    code = f"from rws_cli.benchmarks import sandbox; sandbox.run({program!r})"
    parent = psutil.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 60
    while not ((found := children(parent)) and Path(found[0].cwd(), "begun").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(found, timeout=2)[1] == []


def test_it_does_not_begin_when_its_parent_has_ended() -> None:
    order = {"parent": os.getpid() + 1, "secret": "s", "done": 1}
    orphan = subprocess.run(sandbox.COMMAND, input=json.dumps(order).encode(), capture_output=True, check=False)
    assert (orphan.returncode, orphan.stdout) == (1, b"")


@pytest.mark.parametrize(
    "endless",
    [
        "while True: pass",
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass",
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
    ],
)
def test_endless_programs_end(endless: str) -> None:
    before = os.times()
    assert sandbox.run(endless, seconds=0.5).reason == "timeout"
    used = os.times()
    assert 0.5 < used.children_user + used.children_system - before.children_user - before.children_system < 2.0


def test_processor_time_decides_and_wall_time_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.run("import time; time.sleep(0.5)", seconds=0.2).passed
    two = "import threading\nfor _ in range(2): threading.Thread(target=exec, args=('while True: pass',)).start()"
    assert sandbox.run(f"{two}\nimport time; time.sleep(60)", seconds=0.2).reason == "timeout"
    monkeypatch.setattr(sandbox, "wall_seconds", lambda seconds: 1.5)
    started = time.monotonic()
    assert sandbox.run("import time; time.sleep(60)", seconds=1.0).reason == "timeout"
    assert time.monotonic() - started < 10


def test_memory_and_output_are_bounded() -> None:
    assert "MemoryError" in sandbox.run("x = bytearray(10 << 30)").reason
    assert sandbox.run("for _ in range(9): print('x' * 10_000_000, flush=True)").passed  # which goes nowhere
    assert "File too large" in sandbox.run("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))").reason
    assert not sandbox.run("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))").passed
    threads = "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert not sandbox.run(threads, seconds=2.0).passed


@pytest.mark.parametrize(
    "program",
    [
        "assert __name__ == 'builtins' and '__file__' not in globals()",
        "if __name__ == '__main__': assert False",
        "import sys; sys.stdout.close()",
        "import os; os.close(1); os.close(2)",
        "import sys; assert sys.stdin.read() == ''",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        "import asyncio; asyncio.run(asyncio.sleep(0.01))",
        "import concurrent.futures as c; assert list(c.ThreadPoolExecutor(3).map(abs, [-1, 2])) == [1, 2]",
        "import os, sys; sys.stdout = open(os.devnull, 'w'); print('quiet')",
        "import tempfile; f = tempfile.TemporaryFile(); f.write(b'x'); f.truncate(0)",
        "import resource; assert resource.getrlimit(resource.RLIMIT_AS)[0] == 1 << 30",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nassert P(1) == P(1)",
    ],
)
def test_a_program_runs_as_in_the_published_harnesses(program: str) -> None:
    started = time.monotonic()
    assert sandbox.run(program) == sandbox.Outcome(True, "")
    assert time.monotonic() - started < 20


def test_hashes_and_random_numbers_are_the_same_each_time() -> None:
    draw = "import random; raise ValueError(hash('abc'), list({'a', 'b', 'c', 'd', 'e'}), random.random())"
    assert len({sandbox.run(draw).reason for _ in range(3)}) == 1


def test_the_secret_is_in_no_frame_and_no_object() -> None:
    assert sandbox.run(
        "import gc, re, sys\n"
        "frame, seen = sys._getframe(), []\n"
        "while frame: frame, seen = frame.f_back, [*seen, frame.f_locals, frame.f_globals]\n"
        "seen += [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]\n"
        "values = [v for o in seen for v in (list(o.values()) if isinstance(o, dict) else list(o))]\n"
        "assert any('done' in o for o in seen if isinstance(o, dict))\n"
        "assert not [v for v in values if isinstance(v, str) and re.fullmatch('[0-9a-f]{32}', v)]"
    ).passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os\nfor _ in range(1100): os.mkdir('deep'); os.chdir('deep')\nassert False", "AssertionError"),
        ("import os; os.mkdir('a', 0); os.mkdir('b'); os.mkdir('b/c', 0o100); os.symlink('/', 'b/root'); 1/0", "Zero"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("x = '\0'", "SyntaxError"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E"),
        ("import os; os.closerange(3, 64)", "exit code 1"),
        ("import os; os.abort()", "SIG"),
    ],
)
def test_no_program_stops_a_run_or_leaves_a_folder(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = sandbox.run(program)
    assert not outcome.passed
    assert outcome.reason.startswith(reason), outcome
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_that_fails_is_no_failed_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "COMMAND", [sys.executable, "-c", "raise SystemExit('no more of this')"])
    with pytest.raises(RunError, match="no more of this"):
        sandbox.run("")
    sandbox.check_supported.cache_clear()
    with pytest.raises(UsageError, match="no more of this"):
        sandbox.check_supported()
    monkeypatch.setattr(jail, "landlock_version", lambda: 0)
    with pytest.raises(UsageError, match="no Landlock"):
        sandbox.check_supported()


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    assert sandbox.run("import os; assert 'SECRET_KEY' not in os.environ and 'HOME' not in os.environ").passed
