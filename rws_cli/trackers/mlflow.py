"""MLflow: a run in the experiment named after the benchmark.

Without MLFLOW_TRACKING_URI, it is stored in a database in the output folder.
"""

import os
import re
import time
from typing import ClassVar

from rws_cli.files import file_lock
from rws_cli.part import part
from rws_cli.trackers.base import TrackedRun, Tracker, leaves

MOST_PARAMETERS = 100
"""The most parameters that MLflow accepts in one call."""


@part
class Mlflow(Tracker):
    """Logs the configuration's leaves as parameters and values as metrics."""

    package = "mlflow"
    environment: ClassVar[dict[str, str]] = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }

    def open(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        store = None
        if "MLFLOW_TRACKING_URI" not in os.environ:
            store = run.output.resolve() / "mlflow"
            store.mkdir(parents=True, exist_ok=True)
        with file_lock(
            store / ".lock" if store else None
        ):  # or two runs would create the tables of a new database at once
            self.client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}" if store else None)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.benchmark)
            if existing := self.client.get_experiment_by_name(name):
                experiment = existing.experiment_id
            else:
                artifacts = (store / "artifacts").as_uri() if store else None
                experiment = self.client.create_experiment(name, artifact_location=artifacts)
        self.id = self.run_id = (run.id and self.reopen(run.id)) or self.create(run, experiment)

    def reopen(self, run_id: str) -> str | None:
        """Set a run to running again; returns its id, or None if it is not in this store."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run_id

    def create(self, run: TrackedRun, experiment: str) -> str:
        from mlflow.entities import Param

        run_id = self.client.create_run(experiment, run_name=run.name).info.run_id
        parameters = [Param(allowed(key), str(value)) for key, value in leaves(run.config).items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(run_id, params=parameters[start : start + MOST_PARAMETERS])
        return run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, [Metric(allowed(key), value, now, step) for key, value in values.items()])

    def close(self, status: str) -> None:
        statuses = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self.client.set_terminated(self.run_id, statuses[status])


def allowed(key: str) -> str:
    """A key with characters that MLflow does not allow in names replaced by underscores."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)
