"""How far a run is: a bar on a terminal, a plain line now and then where there is none; run.log gets the lines too."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished examples and committed tokens. Writes to standard error, so that output can be piped; quiet: to the
    log alone."""

    def __init__(self, total: int, samples: list[dict[str, Any]], log: Path, quiet: bool = False) -> None:
        self.total, self.log = total, log
        self.done = len(samples)
        self.right = _right(samples)
        self.graded = sum(sample["grade"] is not None for sample in samples)
        self.first, self.tokens, self.running_tokens = self.done, 0, 0
        self.started = self.last_line = time.monotonic()
        self.last_said = ""
        self.tokens_per_example: float | None = None
        self.console = Console(stderr=True, quiet=quiet)
        self.bar: RichProgress | None = None
        self.on_finished: Callable[[], None] = lambda: None  # for who wants to hear of it

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
            self.bar = RichProgress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
            self.task = self.bar.add_task("", total=self.total, completed=self.done, status="")
            self.bar.start()
        self._say(f"{self.done} of {self.total} examples done, decoding the rest", force=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.last_said != self._status().split(", ")[0] or self.bar:
            self._say(self._status(), force=True)
        self.bar = None  # what is said from here on is printed

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(time.monotonic() - self.started, 1e-9)

    def step(self, committed: int) -> None:
        """Some tokens were committed."""
        self.tokens += committed
        self.running_tokens += committed
        self._show()

    def finished(self, samples: list[dict[str, Any]]) -> None:
        """Some examples are done and on disk."""
        self.done += len(samples)
        self.right += _right(samples)
        self.graded += sum(sample["grade"] is not None for sample in samples)
        self.running_tokens = 0
        self.tokens_per_example = self.tokens / (self.done - self.first)
        self._show()
        self.on_finished()

    def failed(self, failures: dict[str, str]) -> None:
        """Some examples will have no answer."""
        for example, why in failures.items():
            self.say(f"{example} failed: {why}")

    def say(self, line: str) -> None:
        """Something that a user should know; it also ends what was counted of a batch that is not finished."""
        self.tokens, self.running_tokens = self.tokens - self.running_tokens, 0
        self._say(line, force=True, above_bar=True)

    def _status(self) -> str:
        speed = self.tokens_per_second
        parts = [f"{self.done} of {self.total} examples", f"{speed:,.0f} tokens/s"]
        if self.graded:
            parts.append(f"accuracy {self.right / self.graded:.1%}")
        if self.done < self.total and self.tokens_per_example:
            left = (self.total - self.done) * self.tokens_per_example - self.running_tokens
            parts.append(f"{max(left, 0) / speed:,.0f} s left")
        return ", ".join(parts)

    def _show(self) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.done, status=self._status().split(", ", 1)[1])
        self._say(self._status())

    def _say(self, line: str, force: bool = False, above_bar: bool = False) -> None:
        now = time.monotonic()
        if force or now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line, self.last_said = now, line.split(", ")[0]
            stamp = time.strftime("%H:%M:%S")
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp} {line}\n")
            if above_bar or not self.bar:
                self.console.print(f"{stamp} {line}", highlight=False, markup=False, soft_wrap=True)


def _right(samples: list[dict[str, Any]]) -> int:
    return sum(sample["grade"]["correct"] for sample in samples if sample["grade"])
