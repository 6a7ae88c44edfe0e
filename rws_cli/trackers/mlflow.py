"""MLflow: a run of the experiment that is called like the benchmark.

Without MLFLOW_TRACKING_URI it is in a data base under the output folder.
"""

import os
import re
import time
from typing import ClassVar

from rws_cli.files import file_lock
from rws_cli.part import part
from rws_cli.trackers.base import TrackedRun, Tracker, leaves

MOST_PARAMETERS = 100
"""Parameters that MLflow takes at a time."""


@part
class Mlflow(Tracker):
    """Parameters are the configuration's leaves, metrics what is logged."""

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
        with file_lock(store / ".lock" if store else None):  # two runs would make the tables of a new data base at once
            self.client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}" if store else None)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.benchmark)
            if found := self.client.get_experiment_by_name(name):
                experiment = found.experiment_id
            else:
                artifacts = (store / "artifacts").as_uri() if store else None
                experiment = self.client.create_experiment(name, artifact_location=artifacts)
        self.id = self.known = (run.id and self.go_on(run.id)) or self.begin(run, experiment)

    def go_on(self, known: str) -> str | None:
        """A known run, running again; None if it is not in this store."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(known, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return known

    def begin(self, run: TrackedRun, experiment: str) -> str:
        from mlflow.entities import Param

        begun = self.client.create_run(experiment, run_name=run.name).info.run_id
        parameters = [Param(allowed(key), str(value)) for key, value in leaves(run.config).items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(begun, params=parameters[start : start + MOST_PARAMETERS])
        return begun

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.known, [Metric(allowed(key), value, now, step) for key, value in values.items()])

    def close(self, status: str) -> None:
        ends = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self.client.set_terminated(self.known, ends[status])


def allowed(key: str) -> str:
    """MLflow's names have letters, digits and _ - . : / and spaces."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)
