"""Chat templates: Jinja that comes with a checkpoint. One that fails is a sentence, and one that does not end is stopped."""

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
"""What short conversations may take: of the processor, of time where the machine is busy, of memory and of letters.
Templates of real checkpoints take milliseconds and write a few hundred letters."""

TRIED: set[str] = set()
"""Templates that came to an end."""

SPOKEN = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2 + 2?"},
]


def messages(prompt: str, history: Iterable[tuple[str, str]] = (), answer: str | None = None) -> list[dict[str, str]]:
    """A conversation as chat templates take it: earlier turns, the prompt, and an answer to it if one is given."""
    turns = [*((user, assistant) for user, assistant in history), (prompt, answer)]
    spoken = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": text} for role, text in spoken if text is not None]


def render(
    tokenizer: Any,
    conversation: list[dict[str, str]],
    key: str,
    template: str | None = None,
    failure: type[UsageError | RunError] = UsageError,
    **options: Any,
) -> str:
    """A conversation as the chat template writes it: the tokenizer's, or the one given. Raises what `failure` says, naming
    the checkpoint at `key`, if the template fails."""
    try:
        return tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
    except Exception as error:
        raise failure(f"The chat template of {key} fails: {type(error).__name__}: {reason(error)}") from error


def try_out(tokenizer: Any, key: str, template: str | None = None) -> None:
    """Render short conversations in a process of its own. Raises UsageError if that does not end, or eats up memory.

    Jinja's sandbox bounds neither, and a loop within one of its C calls hears no signal. A fork has transformers loaded
    already, so that a trial takes milliseconds. On systems other than Linux, which fork and limit memory otherwise,
    nothing is tried. Errors of the template are left to `render`.
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
            f"The chat template of {key} does not come to an end: a short conversation takes it more than "
            f"{PROCESSOR_SECONDS} s, {MEMORY >> 30} GiB of memory or {CHARACTERS:,} letters."
        )
    TRIED.add(text)


def _ends(tokenizer: Any, template: str | None, turns: int) -> bool:
    try:
        text = tokenizer.apply_chat_template(SPOKEN[:turns], chat_template=template, tokenize=False)
    except Exception as error:
        return not isinstance(error, MemoryError)
    return len(text) <= CHARACTERS


def _limit() -> None:
    """Give this process little more memory than it has, and few seconds."""
    import resource  # of Unix alone

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    for kind, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most, hard) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))
