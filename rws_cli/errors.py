"""Expected errors, printed as one sentence without a traceback, and helpers for their messages."""

import errno
import os
import re
import signal
from collections.abc import Collection
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a run."""


class UsageError(Exception):
    """The request is invalid (exit code 2): a wrong setting, an unknown name, a missing checkpoint."""

    exit_code = 2


class RunError(Exception):
    """A valid run failed (exit code 1)."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """The user stopped the program by a signal (exit code 128 + its number). run: the folder of the run, which can be
    resumed with all finished examples; "" if there is none."""

    def __init__(self, run: str = "", signal: int = 2) -> None:
        super().__init__(run)
        self.run, self.exit_code = run, 128 + signal


def system_error(error: OSError) -> UsageError | RunError:
    """What the operating system refused, as one sentence; a UsageError if the path itself is impossible."""
    kind = UsageError if error.errno in (errno.ENAMETOOLONG, errno.EINVAL) else RunError
    return kind(f"{error.filename or 'the system'}: {error.strerror or error}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, so that fewer rows may help."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and should_reduce_batch_size(error))


def without_secrets(text: str) -> str:
    """A message with secrets removed: credentials in URLs, and the values of environment variables whose name contains KEY,
    TOKEN, SECRET or PASSWORD."""
    text = re.sub(r"//[^/@\s]+@", "//…@", text)
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD", name) and len(value) >= 8:
            text = text.replace(value, "…")
    return text


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without OmegaConf's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\w+Error raised while resolving interpolation: ", "", lines[0])


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tab and line feed, line separators, changes of writing direction, lone surrogates."""


def printable(text: object) -> str:
    """Untrusted text, with characters that would control the terminal replaced by �."""
    return UNPRINTABLE.sub("�", str(text))


def nearest(word: str, allowed: list[str]) -> str:
    """ "; did you mean X?" for the closest allowed word, or "" if none is close."""
    match = closest(word, allowed)
    return f"; did you mean {match}?" if match else ""


def choose_from(word: object, allowed: Collection[str]) -> str:
    """The end of a message about a word that is not allowed: what to choose from, and the closest."""
    return f"choose from {', '.join(allowed)}{nearest(str(word), list(allowed)) or '.'}"


def closest(word: str, allowed: list[str], cutoff: float = 0.6) -> str | None:
    """The closest allowed word, ignoring case; None if none is close."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in allowed}
    return next((by_lower[name] for name in get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)), None)


def display_path(folder: Path) -> str:
    """The path relative to the working directory if the folder is inside it, else as it is."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
