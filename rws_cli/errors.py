"""The ways a run can end early that are not a bug; each is printed as one sentence, without a traceback."""

import errno
import os
import re
import signal
from collections.abc import Collection
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a run to stop."""


class UsageError(Exception):
    """What was asked for cannot be done (exit code 2): a wrong setting, an unknown name, a missing checkpoint."""

    exit_code = 2


class RunError(Exception):
    """The run was well asked for and failed all the same (exit code 1)."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """The user stopped the program by a signal (exit code 128 and its number); `run` is the folder of the run that can go
    on, with all finished examples, or ""."""

    def __init__(self, run: str = "", signal: int = 2) -> None:
        super().__init__(run)
        self.run, self.exit_code = run, 128 + signal


def system_error(error: OSError) -> UsageError | RunError:
    """What the operating system refused, as one sentence; a UsageError if the path itself is impossible."""
    kind = UsageError if error.errno in (errno.ENAMETOOLONG, errno.EINVAL) else RunError
    return kind(f"{error.filename or 'the system'}: {error.strerror or error}")


def out_of_memory(error: BaseException) -> bool:
    """Whether fewer rows may help."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and should_reduce_batch_size(error))


def without_secrets(text: str) -> str:
    """A library's message without what is nobody's business: a password within an address, and what the environment calls
    a key, a token, a secret or a password."""
    text = re.sub(r"//[^/@\s]+@", "//…@", text)
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD", name) and len(value) >= 8:
            text = text.replace(value, "…")
    return text


def first_line(error: BaseException) -> str:
    """What an error says first, without OmegaConf's name for where it came up."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\w+Error raised while resolving interpolation: ", "", lines[0])


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, line separators, changes of the writing direction, lone surrogates."""


def printable(text: object) -> str:
    """Text from elsewhere, with signs for what a terminal would obey instead of showing it."""
    return UNPRINTABLE.sub("�", str(text))


def nearest(word: str, allowed: list[str]) -> str:
    """ "; did you mean X?" for the closest allowed word, or "" where none is close."""
    match = closest(word, allowed)
    return f"; did you mean {match}?" if match else ""


def choose_from(word: object, allowed: Collection[str]) -> str:
    """The end of a sentence about a word that is none of those allowed."""
    return f"choose from {', '.join(allowed)}{nearest(str(word), list(allowed)) or '.'}"


def closest(word: str, allowed: list[str], cutoff: float = 0.6) -> str | None:
    """The closest allowed word, upper and lower case alike; None where none is close."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in allowed}
    return next((by_lower[name] for name in get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)), None)


def display_path(folder: Path) -> str:
    """The path from where the user stands, if the folder lies below."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
