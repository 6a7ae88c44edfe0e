"""What `rws run` and `rws calibrate` do with each configuration that a command line composes."""

import functools
import shlex
import tempfile
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rws_cli.cli.launching import SWEEP_FILE, launch, recorded, sort_flags, typed_overrides
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError, display_path
from rws_cli.files import newest, user_path


def run(arguments: list[str], resume: str | None, dry_run: bool) -> None:
    """`rws run`: one run or a sweep of what the arguments compose; resume: a run's or sweep's folder to go on with.

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
        before = ["--multirun", *recorded(sweep / SWEEP_FILE, typed)]
    elif resume is not None:
        if "--multirun" in typed:
            raise UsageError("--resume goes on with one run and does not go together with --multirun.")
        stopped = find_run(resume)
        before = recorded(stopped / "manifest.json", typed)
        check_parts(stopped, read_json(stopped / "manifest.json"))
    whole = sort_flags([*before, *typed])
    command = shlex.join(["rws", "run", *whole])
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="rws-") as nowhere:
            launch(plan_task, whole, typed, sweep=Path(nowhere))
    else:
        launch(functools.partial(run_task, command=command, resume=stopped), whole, typed, command, sweep, write_sweep)


def run_task(config: Config, composed: DictConfig, command: str, resume: Path | None) -> str | float:
    """One job: run it and print its table; returns its folder, or config.objective's number. command: what was typed;
    resume: a run to go on with."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs.folder import read_json
    from rws_cli.runs.manifest import Request, resumable
    from rws_cli.runs.run import run

    job, folder = HydraConfig.get(), None
    if job.mode == RunMode.MULTIRUN:
        folder = Path(job.runtime.output_dir)
        if not folder.is_relative_to(Path(job.sweep.dir).absolute()):
            raise UsageError(f"hydra.sweep.subdir={job.sweep.subdir} leaves the sweep's folder, {job.sweep.dir}.")
        if (folder / "manifest.json").exists():  # of a sweep that is started again
            resume = folder
    if resume and resumable(resume, config)["status"] == "finished":
        print(f"{display_path(resume)} is finished")
        return outcome(config, resume)
    request = Request(
        overrides=typed_overrides(HydraConfig.instance().cfg), command=command, folder=folder, resume=resume
    )
    folder = run(config, request)
    print_run(folder)
    if failed := read_json(folder / "manifest.json")["failed"]:
        raise RunError(
            f"{len(failed)} of the examples failed, see {display_path(folder / 'failures.jsonl')}; the others are kept. To try "
            f"them again: rws run --resume {display_path(folder)}"
        )
    return outcome(config, folder)


def outcome(config: Config, folder: Path) -> str | float:
    """What a sweeper gets of a finished run: its folder, or the number that it is to optimize.

    Raises UsageError if metrics.json has no such number.
    """
    from rws_cli.runs.folder import read_json

    if config.objective is None:
        return str(folder)
    found = OmegaConf.select(OmegaConf.create(read_json(folder / "metrics.json")), config.objective)
    if not isinstance(found, int | float):
        raise UsageError(f"objective={config.objective} is no number in {folder / 'metrics.json'}: it is {found}.")
    return float(found)


def plan_task(config: Config, composed: DictConfig) -> None:
    """One job of a dry run: print what it would do."""
    from rws_cli.report.terminal import print_plan
    from rws_cli.runs.plan import plan

    print_plan(config, plan(config))


def calibrate_task(config: Config, composed: DictConfig) -> None:
    """One calibration: measure, and say how to use what was found."""
    from rws_cli.report.terminal import print_calibration
    from rws_cli.runs.calibrate import calibrate

    print_calibration(calibrate(config, typed_overrides(HydraConfig.instance().cfg)))
