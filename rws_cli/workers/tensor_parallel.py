"""Decode with one copy of the model that is split among several processes on this machine, the ranks.

models/sharded.py splits the model. All ranks decode every batch in lockstep; the first rank's results are used, and the
others' must be equal. If a rank dies, the others would wait for it forever, so all are replaced.
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
from rws_cli.workers.base import Worker, Workers, assign_device, count_try, exit_cause, start_worker

DEATH_SECONDS = 1.0
"""How long to wait for a rank's exit code after another rank reported an error that its death may have caused."""
END_SECONDS = 10.0
"""How long ranks may take to exit before they are killed."""


class ShortOfMemoryError(Exception):
    """Memory ran out. rows: of the forward pass that did not fit, more than one."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


class LostError(Exception):
    """A rank died; the message is its exit cause."""


class SynchronizedDecoder(BatchDecoder):
    """A BatchDecoder that does not halve its rows on its own, because all ranks must use the same number."""

    def halve(self) -> None:
        if self.rows == 1:
            super().halve()  # raises RunError
        raise ShortOfMemoryError(self.rows)


def serve(config: Config, connection: Connection, rank: Rank) -> None:
    """A rank's process: load, then decode batches until None comes. Sends pairs (kind, value); decisions that concern all
    ranks are left to the main process."""
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
    except (EOFError, ConnectionError):  # the main process is gone
        pass
    except Exception as error:  # usually because another rank is gone
        with suppress(OSError):
            connection.send(("broken", first_line(error)))


def silence(rank: Rank) -> None:
    """Suppress a rank's output, except standard error of the first, for unexpected errors."""
    from transformers.utils import logging

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if rank.number:
        os.dup2(nowhere, 2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@part
class TensorParallel(Workers):
    """A group of ranks. seconds: the time without a step of any rank, or between the first and the last rank to be ready,
    after which the group counts as stuck. It is long because a step of a large model on a CPU is slow."""

    shares_model = True
    seconds = 1800.0

    def conflicts(self, config: Config) -> Iterator[str]:
        m = config.model
        cannot = {
            f"model.kind={m.kind}, which cannot be split": not m.native,
            f"model.device={m.device}, because each rank uses its own device": m.device != "auto",
            f"model.device_map={m.device_map}": m.device_map is not None,
            f"model.quantization={m.quantization}": m.quantization != "none",
            "runtime.compile=true": config.runtime.compile,
        }
        for setting in (setting for setting, is_set in cannot.items() if is_set):
            yield f"runtime.backend={self.kind} does not work with {setting}."

    def ranks(self, config: Config) -> list[Config]:
        import torch

        count = rank_count(config.runtime)
        threads = max(1, (os.cpu_count() or 1) // count)
        return [
            assign_device(config, f"cuda:{n}" if torch.cuda.is_available() else "cpu", threads) for n in range(count)
        ]

    def check(self, config: Config, prepared: PreparedModel) -> None:
        check_divides(prepared.arguments["config"], rank_count(config.runtime))

    def open(self, config: Config, prepared: PreparedRun) -> None:
        self.config = deepcopy(config)
        self.members: list[Worker] = []
        self.tries: dict[str, int] = {}
        self.folder = tempfile.TemporaryDirectory(prefix="rws-ranks-")
        self.starts, self.busy = 0, True
        self.start()

    def start(self) -> None:
        """Start all ranks, replacing running ones, and wait until they have loaded. Raises what loading raised, or RunError
        if one died."""
        self.stop()
        self.starts, self.busy = self.starts + 1, True
        meeting = str(Path(self.folder.name) / str(self.starts))
        configs = self.ranks(self.config)
        for number, config in enumerate(configs):
            self.members.append(start_worker(config, serve, Rank(number, len(configs), meeting, self.seconds)))
        try:
            self.sources, *_ = self.receive([])
            self.busy = False
        except LostError as lost:
            raise RunError(f"A rank ended while loading the model ({lost}).") from lost

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        waiting = deque(batches)
        while waiting:
            self.busy = True
            try:
                for member in self.members:
                    member.connection.send(waiting[0])
                while waiting[0]:
                    outcome = check_agreement(self.receive(waiting[0]))
                    waiting[0] = outcome.remaining(waiting[0])
                    yield outcome
            except (LostError, ConnectionError) as error:
                why = str(error) if isinstance(error, LostError) else self.cause_of_death() or "an unknown cause"
                count_try(self.tries, waiting[0], why)
                self.notify(f"a rank ended with {why}: new ones decode its {len(waiting[0])} examples")
                self.start()
                continue
            except ShortOfMemoryError as error:
                half = self.config.runtime.batch_size = error.rows // 2
                self.notify(f"out of memory with {error.rows} rows in a forward pass: restarting the ranks with {half}")
                self.start()
                continue
            self.busy = False
            waiting.popleft()

    def receive(self, batch: list[Example]) -> list[Any]:
        """The next result of each rank for a batch; for an empty batch its sources once it has loaded. The first rank may
        take any time to load.

        Raises LostError, ShortOfMemoryError, what loading raised, and RunError if the ranks fail or are stuck.
        """
        failure = f"Decoding the batch that starts with example {batch[0].id} failed" if batch else "Loading failed"
        results: dict[int, Any] = {}
        while len(results) < len(self.members):
            pending: dict[Any, int] = {m.connection: n for n, m in enumerate(self.members) if n not in results}
            readable = wait(list(pending), self.seconds if batch or results else None)
            if not readable:
                raise RunError(f"{failure}: rank {min(pending.values())} did not respond for {self.seconds:g} seconds.")
            for number in (pending[connection] for connection in readable):
                try:
                    kind, value = self.members[number].connection.recv()
                except (EOFError, OSError) as error:
                    raise LostError(exit_cause(self.members[number])) from error
                if kind == "step":
                    self.step(value)
                elif kind == "memory":
                    raise ShortOfMemoryError(value)
                elif kind in ("failed", "broken"):
                    if why := self.cause_of_death():
                        raise LostError(why)
                    raise value if kind == "failed" else RunError(f"{failure}: {value}")
                else:
                    results[number] = value
        return [results[n] for n in range(len(self.members))]

    def cause_of_death(self) -> str | None:
        """The exit cause of a rank that failed; None if none has within DEATH_SECONDS."""
        deadline = time.monotonic() + DEATH_SECONDS
        while time.monotonic() < deadline:
            if dead := [member for member in self.members if member.process.exitcode]:
                return exit_cause(dead[0])
            time.sleep(0.02)
        return None

    def stop(self) -> None:
        """Stop the ranks; those that are not busy may exit by themselves."""
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
            self.stop()
            self.folder.cleanup()


def check_agreement(outcomes: list[Outcome]) -> Outcome:
    """The first rank's outcome. Raises RunError if another rank committed other tokens, or in another order."""
    first, *others = map(commits_by_example, outcomes)
    for number, other in enumerate(others, 1):
        if differing := [example for example in first | other if first.get(example) != other.get(example)]:
            raise RunError(
                f"Ranks 0 and {number} decoded example {differing[0]} differently, so neither result can be trusted: use "
                "devices of the same kind."
            )
    return outcomes[0]


def commits_by_example(outcome: Outcome) -> dict[str, Any]:
    """Example id → what all ranks must agree on; None for examples that failed."""
    tokens = {sample["id"]: sample["tokens"] for sample in outcome.samples}
    commits = {trace["id"]: [trace[key] for key in ("token", "position", "step")] for trace in outcome.traces}
    return {i: (tokens[i], commits[i]) for i in tokens} | dict.fromkeys(outcome.failures)
