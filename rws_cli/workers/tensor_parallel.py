"""One copy of the model, split among several processes of this machine, the ranks.

models/sharded.py says how. Every rank decodes every batch, in step with the others; the first one's answers count, and
the others must be the same. If one dies, the others would wait for it, so all are replaced.
"""

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

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError, first_line
from rws_cli.models.base import PreparedModel
from rws_cli.models.sharded import Rank, check_divides, joined, rank_count
from rws_cli.part import part
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.runs.prepared import PreparedRun, load, prepare, sources
from rws_cli.workers.base import Worker, Workers, cause, count_try, placed, started

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


class SynchronizedDecoder(BatchDecoder):
    """An BatchDecoder that does not halve its rows by itself, as the other ranks would not."""

    def halve(self) -> None:
        if self.rows == 1:
            super().halve()  # which says so
        raise ShortOfMemoryError(self.rows)


def serve(config: Config, connection: Connection, rank: Rank) -> None:
    """A rank's process: load, then answer batches until there are no more. It sends pairs of a word and a value, and leaves
    to the run's process what it cannot decide without the others."""
    silence(rank)
    try:
        prepared = prepare(config)
        with joined(rank):
            components = load(config, prepared, rank.count)
            decoder = SynchronizedDecoder(config, prepared, components)
            if rank.number == 0:
                decoder.on_step = lambda committed, traces: connection.send(("step", committed))
            connection.send(("ready", sources(config, prepared, components)))
            while (batch := connection.recv()) is not None:
                for outcome in decoder(batch):
                    connection.send(("done", outcome))
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


@part
class TensorParallel(Workers):
    """A group of ranks. seconds: without a step of any rank, or between the first and the last to be ready, after which it
    counts as stuck. They are many, for a step of a large model on a CPU takes its time."""

    shares_model = True
    seconds = 1800.0

    def conflicts(self, config: Config) -> Iterator[str]:
        m = config.model
        cannot = {
            f"model.kind={m.kind}, for which there is no plan": not m.native,
            f"model.device={m.device}, as each rank takes a device of its own": m.device != "auto",
            f"model.device_map={m.device_map}": m.device_map is not None,
            f"model.quantization={m.quantization}": m.quantization != "none",
            "runtime.compile=true": config.runtime.compile,
        }
        for found in (setting for setting, here in cannot.items() if here):
            yield f"runtime.backend={self.kind} does not work with {found}."

    def ranks(self, config: Config) -> list[Config]:
        import torch

        count = rank_count(config.runtime)
        threads = max(1, (os.cpu_count() or 1) // count)
        return [placed(config, f"cuda:{n}" if torch.cuda.is_available() else "cpu", threads) for n in range(count)]

    def check(self, config: Config, prepared: PreparedModel) -> None:
        check_divides(prepared.arguments["config"], rank_count(config.runtime))

    def open(self, config: Config, prepared: PreparedRun) -> None:
        self.config = deepcopy(config)
        self.members: list[Worker] = []
        self.tries: dict[str, int] = {}
        self.folder = tempfile.TemporaryDirectory(prefix="rws-ranks-")
        self.begun, self.busy = 0, True
        self.begin()

    def begin(self) -> None:
        """Start all ranks, in place of those that there are, and wait until they have loaded. Raises what loading raised,
        and RunError if one died."""
        self.end()
        self.begun, self.busy = self.begun + 1, True
        meeting = str(Path(self.folder.name) / str(self.begun))
        configs = self.ranks(self.config)
        for number, config in enumerate(configs):
            self.members.append(started(config, serve, Rank(number, len(configs), meeting, self.seconds)))
        try:
            self.sources, *_ = self.hear([])
            self.busy = False
        except LostError as lost:
            raise RunError(f"A rank ended while it loaded the model ({lost}).") from lost

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting:
            self.busy = True
            try:
                for member in self.members:
                    member.connection.send(waiting[0])
                while waiting[0]:
                    outcome = agreed(self.hear(waiting[0]))
                    waiting[0] = outcome.rest(waiting[0])
                    yield outcome
            except (LostError, ConnectionError) as error:
                why = str(error) if isinstance(error, LostError) else self.death() or "itself"
                count_try(self.tries, waiting[0], why)
                self.say(f"a rank ended by {why}: new ones take its {len(waiting[0])} examples")
                self.begin()
                continue
            except ShortOfMemoryError as error:
                half = self.config.runtime.batch_size = error.rows // 2
                self.say(f"out of memory with {error.rows} rows in a forward pass: ranks start anew with {half}")
                self.begin()
                continue
            self.busy = False
            waiting.popleft()

    def hear(self, batch: list[Example]) -> list[Any]:
        """What each rank answers next of a batch; of none, its sources once it has loaded, which may take any time until the
        first is ready.

        Raises LostError, ShortOfMemoryError, what loading raised, and RunError if the ranks do not get on.
        """
        at = "Loading failed"
        if batch:
            at = f"The ranks did not get on with the batch that begins with example {batch[0].id}"
        heard: dict[int, Any] = {}
        while len(heard) < len(self.members):
            silent: dict[Any, int] = {m.connection: n for n, m in enumerate(self.members) if n not in heard}
            speaking = wait(list(silent), self.seconds if batch or heard else None)
            if not speaking:
                raise RunError(f"{at}: rank {min(silent.values())} was silent for {self.seconds:g} seconds.")
            for number in (silent[connection] for connection in speaking):
                try:
                    word, value = self.members[number].connection.recv()
                except (EOFError, OSError) as error:
                    raise LostError(cause(self.members[number])) from error
                if word == "step":
                    self.step(value)
                elif word == "memory":
                    raise ShortOfMemoryError(value)
                elif word in ("failed", "broken"):
                    if why := self.death():
                        raise LostError(why)
                    raise value if word == "failed" else RunError(f"{at}: {value}")
                else:
                    heard[number] = value
        return [heard[n] for n in range(len(self.members))]

    def death(self) -> str | None:
        """How a rank died of itself; None if none did."""
        deadline = time.monotonic() + DEATH_SECONDS
        while time.monotonic() < deadline:
            if dead := [member for member in self.members if member.process.exitcode]:
                return cause(dead[0])
            time.sleep(0.02)
        return None

    def end(self) -> None:
        """End the ranks: in peace, unless they have something in hand."""
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
        if hasattr(self, "folder"):
            self.end()
            self.folder.cleanup()


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
