"""One copy of the model, split among several processes of this machine, the ranks (see models/sharded.py).

Every rank decodes every batch, in step with the others; the first one's answers count, and the others must be the same.
One that dies takes the others with it, for they would wait for it: all are replaced.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError, first_line
from rws_cli.models.sharded import Rank, joined, rank_count
from rws_cli.runs.progress import Progress
from rws_cli.task import load, prepare, sources
from rws_cli.workers.base import Worker, cause, count_try, ignore_signals, placed, started

HANG_SECONDS = 1800.0
"""Without a step of any rank, or between the first and the last to be ready. Long, for a step of a large model on a CPU
takes its time, and a rank that died is seen at once."""
DEATH_SECONDS = 1.0
"""In which a death shows, after what came of it in another rank did."""
END_SECONDS = 10.0


class ShortOfMemoryError(Exception):
    """rows: in a forward pass, more than one, that did not fit."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


class LostError(Exception):
    """A rank died; its argument says how."""


class InStep(Answerer):
    """An Answerer that does not halve its rows by itself, as the other ranks would not."""

    def halve(self) -> None:
        if self.rows == 1:
            super().halve()  # which says so
        raise ShortOfMemoryError(self.rows)


def serve(config: Config, connection: Connection, rank: Rank) -> None:
    """A rank's process, as processes.serve; what it cannot decide without the others it leaves to the run's process."""
    ignore_signals()
    silence(rank)
    try:
        task = prepare(config)
        with joined(rank):
            parts = load(config, task, rank.count)
            answerer = InStep(config, task, parts)
            if rank.number == 0:
                answerer.on_step = lambda committed, traces: connection.send(("step", committed))
            connection.send(("ready", sources(config, task, parts)))
            while (batch := connection.recv()) is not None:
                connection.send(("done", sum(answerer(batch), Outcome())))
    except ShortOfMemoryError as error:
        connection.send(("memory", error.rows))
    except (UsageError, RunError) as error:
        connection.send(("failed", error))
    except (EOFError, ConnectionError):  # the run's process is gone
        pass
    except Exception as error:  # most often that another rank is gone
        with suppress(OSError):
            connection.send(("broken", first_line(error)))


def silence(rank: Rank) -> None:
    """Let a rank print nothing; but the first may say on standard error what nobody foresaw."""
    from transformers.utils import logging

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if rank.number:
        os.dup2(nowhere, 2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


class Ranks:
    """A group of ranks. seconds: of silence, after which it counts as stuck."""

    count = 1

    def __init__(self, config: Config, seconds: float | None = None) -> None:
        self.config, self.seconds = deepcopy(config), seconds or HANG_SECONDS
        self.progress: Progress | None = None
        self.members: list[Worker] = []
        self.tries: dict[str, int] = {}
        self.folder = tempfile.TemporaryDirectory(prefix="rws-ranks-")
        self.begun, self.busy = 0, True
        try:
            self.begin()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Start all ranks, in place of those that there are, and wait until they have loaded. Raises what loading raised,
        and RunError if one died."""
        self.end()
        self.begun, self.busy = self.begun + 1, True
        meeting = str(Path(self.folder.name) / str(self.begun))
        count = rank_count(self.config.runtime)
        for number, config in enumerate(each(self.config, count)):
            self.members.append(started(config, serve, Rank(number, count, meeting, self.seconds)))
        try:
            self.sources, *_ = self.told(None)
            self.busy = False
        except LostError as lost:
            raise RunError(f"A rank ended while it loaded the model ({lost}).") from lost

    def listen(self, progress: Progress) -> None:
        self.progress = progress

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting:
            self.busy = True
            try:
                for member in self.members:
                    member.connection.send(waiting[0])
                outcomes = self.told(waiting[0])
            except (LostError, ConnectionError) as error:
                why = str(error) if isinstance(error, LostError) else self.death() or "itself"
                count_try(self.tries, waiting[0], why)
                self.say(f"a rank ended by {why}: new ones take its {len(waiting[0])} examples")
                self.begin()
                continue
            except ShortOfMemoryError as error:
                self.config.runtime.batch_size = error.rows // 2
                self.say(
                    f"out of memory with {error.rows} rows in a forward pass: ranks start anew with {error.rows // 2}"
                )
                self.begin()
                continue
            self.busy = False
            waiting.popleft()
            yield agreed(outcomes)

    def told(self, batch: list[Example] | None) -> list[Any]:
        """What each rank has to say of a batch; None: of loading, which may take any time until the first is ready.

        Raises LostError, ShortOfMemoryError, what loading raised, and RunError where the ranks do not get on.
        """
        at = (
            f"The ranks did not get on with the batch that begins with example {batch[0].id}"
            if batch
            else "Loading failed"
        )
        said: dict[int, Any] = {}
        while len(said) < len(self.members):
            silent = {member.connection: n for n, member in enumerate(self.members) if n not in said}
            heard = wait(list(silent), self.seconds if batch or said else None)
            if not heard:
                raise RunError(f"{at}: rank {min(silent.values())} was silent for {self.seconds:g} seconds.")
            for connection in heard:
                number = silent[connection]  # type: ignore[index]
                try:
                    word, value = self.members[number].connection.recv()
                except (EOFError, OSError) as error:
                    raise LostError(cause(self.members[number])) from error
                if word == "step":
                    if self.progress:
                        self.progress.step(value)
                    continue
                if word == "memory":
                    raise ShortOfMemoryError(value)
                if word in ("failed", "broken"):
                    if why := self.death():
                        raise LostError(why)
                    raise value if word == "failed" else RunError(f"{at}: {value}")
                said[number] = value
        return [said[n] for n in range(len(self.members))]

    def death(self) -> str | None:
        """How a rank died of itself; None if none did."""
        deadline = time.monotonic() + DEATH_SECONDS
        while time.monotonic() < deadline:
            if dead := [member for member in self.members if member.process.exitcode]:
                return cause(dead[0])
            time.sleep(0.02)
        return None

    def say(self, line: str) -> None:
        if self.progress:
            self.progress.say(line)

    def end(self) -> None:
        """Let the ranks go, who must not have anything in hand if it is to be in peace."""
        if not self.busy:
            for member in self.members:
                with suppress(OSError):
                    member.connection.send(None)
            deadline = time.monotonic() + END_SECONDS
            for member in self.members:
                member.process.join(max(0.0, deadline - time.monotonic()))
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.join()
            member.connection.close()
        self.members = []

    def close(self) -> None:
        self.end()
        self.folder.cleanup()


def each(config: Config, count: int) -> list[Config]:
    """A configuration for each rank, with a device of its own."""
    import torch

    threads = max(1, (os.cpu_count() or 1) // count)
    return [placed(config, f"cuda:{n}" if torch.cuda.is_available() else "cpu", threads) for n in range(count)]


def agreed(outcomes: list[Outcome]) -> Outcome:
    """The first rank's outcome. Raises RunError if another committed other tokens, or in another order."""
    first, *others = map(decided, outcomes)
    for number, other in enumerate(others, 1):
        if apart := [example for example in first | other if first.get(example) != other.get(example)]:
            raise RunError(
                f"Ranks 0 and {number} decoded example {apart[0]} differently, so that neither can be trusted: are their "
                "devices of one kind?"
            )
    return outcomes[0]


def decided(outcome: Outcome) -> dict[str, Any]:
    """By example what all ranks must have in common; None for those that failed."""
    tokens = {sample["id"]: sample["tokens"] for sample in outcome.samples}
    commits = {trace["id"]: [trace[key] for key in ("token", "position", "step")] for trace in outcome.traces}
    return {i: (tokens[i], commits[i]) for i in tokens} | dict.fromkeys(outcome.failures)
