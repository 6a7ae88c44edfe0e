"""Progress of a run: a bar on a terminal, otherwise a line every few seconds; lines also go to run.log."""

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
        self.correct = _correct(samples)
        self.graded = sum(sample["grade"] is not None for sample in samples)
        self.first, self.tokens, self.running_tokens = self.done, 0, 0
        self.started = self.last_line = time.monotonic()
        self.last_text = ""
        self.tokens_per_example: float | None = None
        self.console = Console(stderr=True, quiet=quiet)
        self.bar: RichProgress | None = None
        self.on_finished: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
            self.bar = RichProgress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
            self.task = self.bar.add_task("", total=self.total, completed=self.done, status="")
            self.bar.start()
        self._write(f"{self.done} of {self.total} examples done, decoding the rest", force=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.last_text != self._status().split(", ")[0] or self.bar:
            self._write(self._status(), force=True)
        self.bar = None  # later lines are printed

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(time.monotonic() - self.started, 1e-9)

    def step(self, committed: int) -> None:
        """Count committed tokens."""
        self.tokens += committed
        self.running_tokens += committed
        self._show()

    def finished(self, samples: list[dict[str, Any]]) -> None:
        """Count examples that are finished and on disk."""
        self.done += len(samples)
        self.correct += _correct(samples)
        self.graded += sum(sample["grade"] is not None for sample in samples)
        self.running_tokens = 0
        self.tokens_per_example = self.tokens / (self.done - self.first)
        self._show()
        self.on_finished()

    def failed(self, failures: dict[str, str]) -> None:
        """Report examples that failed."""
        for example, why in failures.items():
            self.notify(f"{example} failed: {why}")

    def notify(self, line: str) -> None:
        """Print a line for the user, and discard the tokens counted for an unfinished batch."""
        self.tokens, self.running_tokens = self.tokens - self.running_tokens, 0
        self._write(line, force=True, above_bar=True)

    def _status(self) -> str:
        speed = self.tokens_per_second
        parts = [f"{self.done} of {self.total} examples", f"{speed:,.0f} tokens/s"]
        if self.graded:
            parts.append(f"accuracy {self.correct / self.graded:.1%}")
        if self.done < self.total and self.tokens_per_example:
            left = (self.total - self.done) * self.tokens_per_example - self.running_tokens
            parts.append(f"{max(left, 0) / speed:,.0f} s left")
        return ", ".join(parts)

    def _show(self) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.done, status=self._status().split(", ", 1)[1])
        self._write(self._status())

    def _write(self, line: str, force: bool = False, above_bar: bool = False) -> None:
        now = time.monotonic()
        if force or now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line, self.last_text = now, line.split(", ")[0]
            stamp = time.strftime("%H:%M:%S")
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp} {line}\n")
            if above_bar or not self.bar:
                self.console.print(f"{stamp} {line}", highlight=False, markup=False, soft_wrap=True)


def _correct(samples: list[dict[str, Any]]) -> int:
    return sum(sample["grade"]["correct"] for sample in samples if sample["grade"])
