"""Weights & Biases: files in the run's folder, uploaded if the user is logged in."""

import os
import sys
from typing import Any, ClassVar

from rws_cli.part import part
from rws_cli.trackers.base import TrackedRun, Tracker, error_line


@part
class Wandb(Tracker):
    """Without a key or a network, logs to files for `wandb sync`, unless WANDB_MODE is set."""

    package = "wandb"
    environment: ClassVar[dict[str, str]] = {
        "WANDB_PROJECT": "rws",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_FINISH_TIMEOUT": "60",
    }

    def open(self, run: TrackedRun) -> None:
        self.hooks = sys.exit, sys.excepthook  # the library's service replaces them permanently
        import wandb

        self.is_only_run = wandb.run is None
        settings = wandb.Settings(
            reinit="create_new",  # a notebook that calls rws may have its own run
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        named = {"NAME": run.name, "DIR": str(run.folder), "RUN_ID": run.id, "RESUME": "allow"}
        options: dict[str, Any] = {
            name.lower().removeprefix("run_"): value
            for name, value in named.items()
            if f"WANDB_{name}" not in os.environ
        }
        try:
            try:
                self.run = wandb.init(config=run.config, settings=settings, **options)
            except wandb.Error as error:
                if "WANDB_MODE" in os.environ:
                    raise
                self.run = wandb.init(config=run.config, settings=settings, **options, mode="offline")
                self.note = (
                    f"wandb: {error_line(error)}; logging to {run.folder / 'wandb'} instead; upload it with wandb sync"
                )
        except BaseException:
            self.stop()
            raise
        self.id = self.run.id

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        self.run.summary.update(metrics)

    def close(self, status: str) -> None:
        try:
            self.run.finish(exit_code=0 if status == "finished" else 1)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop the library's service, unless another run in this process uses it."""
        import wandb

        if self.is_only_run:
            wandb.teardown()
            sys.exit, sys.excepthook = self.hooks
