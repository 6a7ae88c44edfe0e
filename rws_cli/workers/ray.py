"""Decode in a Ray cluster, with a copy of the model per actor. Ray restarts lost actors and resends their batches."""

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from rws_cli import registry
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.part import part
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.runs.prepared import PreparedRun, load, prepare, sources
from rws_cli.workers.base import TRIES, Workers, assign_device

REACH_SECONDS = 10.0
"""Timeout for connecting to a cluster."""


class Actor:
    """One copy of the model in the cluster. config: a Ray reference to the configuration, in a list so that Ray does not
    load it before the user's parts can be imported."""

    def __init__(self, folder: str, parts: list[str], config: list[Any]) -> None:
        os.chdir(folder)  # paths are relative to where the run was started
        registry.set_folders(parts)
        self.config = config
        self.decoder: BatchDecoder | None = None

    def load(self) -> dict[str, Any] | UsageError:
        """Load the models; returns their sources, or the error, which Ray would wrap if it were raised."""
        import ray

        try:
            config = ray.get(self.config[0])
            prepared = prepare(config)
            components = load(config, prepared)
        except UsageError as error:
            return error
        self.decoder = BatchDecoder(config, prepared, components)
        return sources(config, prepared, components)

    def decode(self, batch: list[Example]) -> Outcome | RunError | UsageError:
        if self.decoder is None:  # a restarted actor
            result = self.load()
            if isinstance(result, UsageError):
                return result
        try:
            return sum(self.decoder(batch), Outcome())  # type: ignore[misc]
        except RunError as error:
            return error


@part
class Ray(Workers):
    """Decodes in the cluster at runtime.address, or in a new one on this machine."""

    def open(self, config: Config, prepared: PreparedRun) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError(f"runtime={self.kind} needs Ray: pip install 'rws[{self.kind}]'.") from error
        connect(config.runtime.address)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        cores = int(ray.cluster_resources()["CPU"])
        self.count = config.runtime.workers or gpus or cores
        needs = {"num_gpus": 1} if gpus else {"num_cpus": max(1, cores // self.count)}
        actor_class = ray.remote(**needs, max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
        stored = [ray.put(assign_device(config, "cuda" if gpus else "cpu", max(1, cores // self.count)))]
        self.actors = [actor_class.remote(os.getcwd(), registry.folders(), stored) for _ in range(self.count)]
        results = ray.get([actor.load.remote() for actor in self.actors])
        if failed := next((result for result in results if isinstance(result, UsageError)), None):
            raise failed
        self.sources = results[0]

    def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
        import ray

        waiting, idle = list(batches)[::-1], list(self.actors)
        busy: dict[Any, Any] = {}
        while waiting or busy:
            while waiting and idle:
                actor = idle.pop()
                busy[actor.decode.remote(waiting.pop())] = actor
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            idle.append(busy.pop(done))
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise RunError(
                    f"A worker of the Ray cluster failed {TRIES} times on the same batch: {reason}"
                ) from error
            if isinstance(outcome, RunError | UsageError):
                raise outcome
            self.step(sum(sample["committed"] for sample in outcome.samples))
            yield outcome

    def close(self) -> None:
        with suppress(ImportError):
            import ray

            ray.shutdown()


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one. Raises UsageError if there is none at the address."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if match := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address or ""):
            # Ray itself would wait for many minutes.
            socket.create_connection((match[1], int(match[2])), timeout=REACH_SECONDS).close()
        ray.init(address=address or "local", include_dashboard=False, logging_level="error", log_to_driver=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"runtime.address={address} is not a reachable Ray cluster: {error}.") from error
