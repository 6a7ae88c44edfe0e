"""Who decodes a run's batches. Examples are independent of each other, so every backend comes to the same samples."""

from collections.abc import Iterator
from contextlib import contextmanager

from rws_cli import registry
from rws_cli.config.schema import Config
from rws_cli.runs.prepared import PreparedRun
from rws_cli.workers.base import Workers


@contextmanager
def open_workers(config: Config, prepared: PreparedRun) -> Iterator[Workers]:
    """The workers of runtime.backend, with their weights loaded. Raises UsageError as loading does."""
    workers = registry.make("worker", config.runtime.backend, "runtime.backend")
    try:
        workers.open(config, prepared)
        yield workers
    finally:
        workers.close()
