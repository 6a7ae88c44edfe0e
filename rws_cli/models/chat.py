"""Chat templates: Jinja that comes with a checkpoint. One that fails is reported, and one that does not end is stopped."""

import os
import select
import signal
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError, UsageError
from rws_cli.models.checkpoint import reason

PROCESSOR_SECONDS, SECONDS, MEMORY, CHARACTERS = 2, 60.0, 1 << 30, 100_000
"""Limits for rendering short conversations: seconds of processor time, seconds of wall time, bytes of memory, characters
of output. Templates of real checkpoints take milliseconds and write a few hundred characters."""

TRIED: set[str] = set()
"""Templates that ended within the limits."""

SPOKEN = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2 + 2?"},
]


def messages(
    prompt: str, history: Iterable[tuple[str, str]] = (), completion: str | None = None, system: str = ""
) -> list[dict[str, str]]:
    """A conversation as chat templates take it: the system message if any, earlier turns (user, assistant), the prompt, and
    its completion if any."""
    turns = [*((user, assistant) for user, assistant in history), (prompt, completion)]
    pairs = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    spoken = [*([("system", system)] if system else []), *pairs]
    return [{"role": role, "content": text} for role, text in spoken if text is not None]


def render(
    tokenizer: Any,
    conversation: list[dict[str, str]],
    key: str,
    template: str | None = None,
    failure: type[UsageError | RunError] = UsageError,
    **options: Any,
) -> str:
    """Render a conversation with the tokenizer's chat template, or with `template`. Raises `failure`, naming the checkpoint
    at `key`, if the template fails."""
    try:
        return tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
    except Exception as error:
        raise failure(f"The chat template of {key} fails: {type(error).__name__}: {reason(error)}") from error


def try_out(tokenizer: Any, key: str, template: str | None = None) -> None:
    """Render short conversations in a child process. Raises UsageError if that exceeds the limits.

    Jinja's sandbox limits neither time nor memory, and a loop inside one of its C calls ignores signals. A forked process
    has transformers loaded already, so a trial takes milliseconds. Only Linux is tried: other systems fork and limit memory
    differently. Errors of the template are left to `render`.
    """
    text = str(template or tokenizer.chat_template)
    if sys.platform != "linux" or text in TRIED:
        return
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, in Python 3.12: the child touches none
        child = os.fork()
    if not child:
        try:
            _limit()
            os.write(write, b"ended" if all(_ends(tokenizer, template, turns) for turns in (1, 2, 3)) else b"")
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], SECONDS)
        ended = bool(ready and os.read(read, 8))
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not ended:
        raise UsageError(
            f"The chat template of {key} does not end: a short conversation takes more than "
            f"{PROCESSOR_SECONDS} s, {MEMORY >> 30} GiB of memory or {CHARACTERS:,} characters."
        )
    TRIED.add(text)


def _ends(tokenizer: Any, template: str | None, turns: int) -> bool:
    try:
        text = tokenizer.apply_chat_template(SPOKEN[:turns], chat_template=template, tokenize=False)
    except Exception as error:
        return not isinstance(error, MemoryError)
    return len(text) <= CHARACTERS


def _limit() -> None:
    """Limit this process's memory and processor time."""
    import resource  # Unix only

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    for kind, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most, hard) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))
