"""What generated programs might try, and that it comes to nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from rws_cli.benchmarks import jail, sandbox

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


@pytest.mark.parametrize(
    "endless",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
    ],
)
def test_endless_programs_end(endless: str) -> None:
    started = time.monotonic()
    assert sandbox.run(endless, seconds=1.0).reason == "timeout"
    assert time.monotonic() - started < 4.0


def test_memory_and_output_are_bounded() -> None:
    assert "MemoryError" in sandbox.run("x = bytearray(10 << 30)").reason
    loud = sandbox.run("while True: print('x' * 10_000_000, flush=True)", seconds=10.0)
    assert not loud.passed
    assert "File too large" in loud.reason
    assert "File too large" in sandbox.run("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))").reason
    assert not sandbox.run("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))").passed
    shared = "import ctypes; assert ctypes.CDLL(None).shmget(7, 1 << 20, 0o1600) >= 0"  # memory that would outlive it
    assert not sandbox.run(shared).passed
    threads = "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert not sandbox.run(threads, seconds=10.0).passed


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    assert sandbox.run("import os; assert 'SECRET_KEY' not in os.environ and 'HOME' not in os.environ").passed
