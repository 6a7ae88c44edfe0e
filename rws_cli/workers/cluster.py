"""A run's batches as tasks of actors in a Ray cluster. Ray restarts an actor that is lost and gives it its batch again."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rws_cli.answering import Answerer, Outcome
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.runs.progress import Progress
from rws_cli.task import load, prepare, sources
from rws_cli.workers.base import TRIES, placed

REACH_SECONDS = 10.0


class Actor:
    """One copy of the model, somewhere in the cluster."""

    def __init__(self, config: Config, folder: str) -> None:
        os.chdir(folder)  # paths mean what they mean where the run was started
        self.config = config
        self.answerer: Answerer | None = None

    def begin(self) -> dict[str, Any] | UsageError:
        """Load; what loading found wrong is returned, for Ray would wrap what is raised."""
        try:
            task = prepare(self.config)
            parts = load(self.config, task)
        except UsageError as error:
            return error
        self.answerer = Answerer(self.config, task, parts)
        return sources(self.config, task, parts)

    def answer(self, batch: list[Example]) -> Outcome | RunError | UsageError:
        if self.answerer is None:  # a restarted actor
            begun = self.begin()
            if isinstance(begun, UsageError):
                return begun
        try:
            return sum(self.answerer(batch), Outcome())  # type: ignore[misc]
        except RunError as error:
            return error


class Cluster:
    """Actors in a cluster that is connected to."""

    def __init__(self, config: Config) -> None:
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        cores = int(ray.cluster_resources()["CPU"])
        self.count = config.runtime.workers or gpus or cores
        needs = {"num_gpus": 1} if gpus else {"num_cpus": max(1, cores // self.count)}
        actor = ray.remote(**needs, max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
        placed_config = placed(config, "cuda" if gpus else "cpu", max(1, cores // self.count))
        self.actors = [actor.remote(placed_config, os.getcwd()) for _ in range(self.count)]
        self.progress: Progress | None = None
        begun = ray.get([one.begin.remote() for one in self.actors])
        if wrong := next((one for one in begun if isinstance(one, UsageError)), None):
            raise wrong
        self.sources = begun[0]

    def listen(self, progress: Progress) -> None:
        self.progress = progress

    def answers(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        import ray

        waiting, idle = list(batches)[::-1], list(self.actors)
        busy: dict[Any, Any] = {}
        while waiting or busy:
            while waiting and idle:
                one = idle.pop()
                busy[one.answer.remote(waiting.pop())] = one
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            idle.append(busy.pop(done))
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise RunError(f"A worker of the Ray cluster failed {TRIES} times over a batch: {reason}") from error
            if isinstance(outcome, RunError | UsageError):
                raise outcome
            if self.progress:
                self.progress.step(sum(sample["committed"] for sample in outcome.samples))
            yield outcome


@contextmanager
def open_cluster(config: Config) -> Iterator[Cluster]:
    """Connect to the cluster at runtime.address, or start one on this machine. Raises UsageError if there is none."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("runtime=ray needs Ray: pip install 'rws[ray]'.") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if at := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", config.runtime.address or ""):
            # Ray itself would wait for many minutes.
            socket.create_connection((at[1], int(at[2])), timeout=REACH_SECONDS).close()
        ray.init(
            address=config.runtime.address or "local",
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"runtime.address={config.runtime.address} is no Ray cluster: {error}.") from error
    try:
        yield Cluster(config)
    finally:
        ray.shutdown()
