"""What `rws run` and `rws calibrate` do with each configuration that a command line composes to."""

import functools
import shlex
import tempfile
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rws_cli.cli.launching import SWEEP_FILE, launch, recorded_overrides, sort_flags, typed_overrides
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError, display_path
from rws_cli.files import newest, user_path


def run(arguments: list[str], resume: str | None, dry_run: bool) -> None:
    """`rws run`: the run or sweep that the arguments compose to. resume: the folder of a run or sweep to resume.

    Raises as `launch` and `recorded` do.
    """
    from rws_cli.report.sweep import write_sweep
    from rws_cli.runs.folder import find_run, read_json
    from rws_cli.runs.manifest import check_parts

    typed = sort_flags(arguments)
    before: list[str] = []
    stopped = sweep = None
    if resume is not None and ((started := newest(user_path(resume))) / SWEEP_FILE).is_file():
        sweep = started.resolve()
        before = ["--multirun", *recorded_overrides(sweep / SWEEP_FILE, typed)]
    elif resume is not None:
        if "--multirun" in typed:
            raise UsageError("--resume RUN continues a single run: leave out --multirun, or give the sweep's folder.")
        stopped = find_run(resume)
        before = recorded_overrides(stopped / "manifest.json", typed)
        check_parts(stopped, read_json(stopped / "manifest.json"))
    whole = sort_flags([*before, *typed])
    command = shlex.join(["rws", "run", *whole])
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="rws-") as nowhere:
            launch(plan_task, whole, typed, sweep=Path(nowhere))
    else:
        launch(functools.partial(run_task, command=command, resume=stopped), whole, typed, command, sweep, write_sweep)


def run_task(config: Config, composed: DictConfig, command: str, resume: Path | None) -> str | float:
    """Run one job and print its table; returns its `job_result`. command: the command line; resume: the folder of a run to
    resume."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs.folder import read_json
    from rws_cli.runs.manifest import Request, resumable
    from rws_cli.runs.run import run

    job, folder = HydraConfig.get(), None
    if job.mode == RunMode.MULTIRUN:
        folder = Path(job.runtime.output_dir)
        if not folder.is_relative_to(Path(job.sweep.dir).absolute()):
            raise UsageError(
                f"hydra.sweep.subdir={job.sweep.subdir} is outside the sweep's folder, {job.sweep.dir}: choose a folder within it."
            )
        if (folder / "manifest.json").exists():  # of a sweep that is being resumed
            resume = folder
    if resume and resumable(resume, config)["status"] == "finished":
        print(f"{display_path(resume)} is already finished")
        return job_result(config, resume)
    request = Request(
        overrides=typed_overrides(HydraConfig.instance().cfg), command=command, folder=folder, resume=resume
    )
    folder = run(config, request)
    print_run(folder)
    manifest = read_json(folder / "manifest.json")
    if failed := manifest["failed"]:
        total = manifest["sources"]["benchmark"]["examples"]
        raise RunError(
            f"{len(failed)} of {total} examples failed, see {display_path(folder / 'failures.jsonl')}; the others were "
            f"saved. To retry the failed ones: rws run --resume {display_path(folder)}"
        )
    return job_result(config, folder)


def job_result(config: Config, folder: Path) -> str | float:
    """What a finished job returns to the sweeper: the run's folder, or the value of config.objective.

    Raises UsageError if metrics.json has no such number.
    """
    from rws_cli.runs.folder import read_json

    if config.objective is None:
        return str(folder)
    value = OmegaConf.select(OmegaConf.create(read_json(folder / "metrics.json")), config.objective)
    if not isinstance(value, int | float):
        raise UsageError(f"objective={config.objective} is not a number in {folder / 'metrics.json'}: it is {value}.")
    return float(value)


def plan_task(config: Config, composed: DictConfig) -> None:
    """Print what one job of a dry run would do."""
    from rws_cli.report.terminal import print_plan
    from rws_cli.runs.plan import plan

    print_plan(config, plan(config))


def calibrate_task(config: Config, composed: DictConfig) -> None:
    """Measure a reward's statistics, and print them and how to use them."""
    from rws_cli.report.terminal import print_calibration
    from rws_cli.runs.calibrate import calibrate

    print_calibration(calibrate(config, typed_overrides(HydraConfig.instance().cfg)))
