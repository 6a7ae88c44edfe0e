"""Between Typer and Hydra: the one place that knows both, swaps sys.argv and reads HydraConfig.

`hydra.main` runs inside a Typer command with that command's remaining arguments, so overrides, sweeps, launchers and
`--cfg` work as Hydra's users know them. Hydra's own errors are turned into one sentence with exit code 2.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rws_cli.config import CONF, check
from rws_cli.errors import RunError, UsageError, nearest
from rws_cli.explain import NOT_COMPOSED, explain

SWEEP_FOLDER = "RWS_SWEEP_FOLDER"
SWEEP_FILE = "sweep.json"
"""In a sweep's folder: the command that started it."""
RESUME, COMMAND = "RWS_RESUME", "RWS_COMMAND"
FLAGS_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
MAKES_OBJECTS = re.compile(r"_target_|\bcallbacks\b|\b(?:job|hydra)_logging(?!: none)\b|searchpath")
FLAGS = (*FLAGS_WITH_VALUE, "--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--shell-completion", "-sc")


def run_task(composed: DictConfig) -> str:
    """One job: check the configuration, run it, print its table. Importable, so that launchers can send it away."""
    from rws_cli.experiment import run
    from rws_cli.report.terminal import print_run, shown
    from rws_cli.runs.folder import read_json
    from rws_cli.runs.manifest import Request

    config = check(composed)
    resolved = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(resolved, dict)
    job = HydraConfig.get()
    resume = os.environ.get(RESUME)
    if job.mode == RunMode.MULTIRUN and (Path(job.runtime.output_dir) / "manifest.json").exists():
        resume = job.runtime.output_dir  # of a sweep that is started again
        if read_json(Path(resume) / "manifest.json")["status"] == "finished":
            print(f"{shown(Path(resume))} is finished")
            return resume
    folder = run(
        config,
        {str(key): value for key, value in resolved.items()},
        Request(
            overrides=list(job.overrides.task),
            command=os.environ.get(COMMAND, "rws run"),
            folder=Path(job.runtime.output_dir) if job.mode == RunMode.MULTIRUN else None,
            resume=Path(resume) if resume else None,
        ),
    )
    print_run(folder)
    if failed := read_json(folder / "manifest.json")["failed"]:
        raise RunError(
            f"{len(failed)} of the examples failed, see {shown(folder / 'failures.jsonl')}; the others are kept. To try "
            f"them again: rws run --resume {shown(folder)}"
        )
    return str(folder)


def plan_task(composed: DictConfig) -> None:
    """One job of a dry run: check the configuration and print what it would do."""
    from rws_cli.plan import plan
    from rws_cli.report.terminal import print_plan

    config = check(composed)
    print_plan(config, plan(config))


def calibrate_task(composed: DictConfig) -> None:
    """One calibration: check the configuration, measure, and say how to use what was found."""
    from rws_cli.calibrate import calibrate
    from rws_cli.report.terminal import print_calibration

    print_calibration(calibrate(check(composed), list(HydraConfig.get().overrides.task)))


def launch(
    task: Callable[[DictConfig], Any],
    arguments: list[str],
    resume: Path | None = None,
    sweep: Path | None = None,
    after_sweep: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Run a task under Hydra with a command line's arguments; after a sweep, also one of which jobs failed, call
    `after_sweep` with its folder. resume: a run to go on with; sweep: the folder of a sweep to go on with.

    Raises UsageError for whatever Hydra finds wrong with the arguments, and what the task raises.
    """
    arguments = sort_flags(arguments)
    check_arguments(arguments)
    OmegaConf.register_new_resolver("rws_sweep", _claim_sweep, replace=True)
    lines = sweeps(arguments)
    environment = {"HYDRA_FULL_ERROR": "1", COMMAND: shlex.join(["rws", "run", *arguments])}
    if resume:
        environment[RESUME] = str(resume)
    if sweep:
        environment[SWEEP_FOLDER] = str(sweep)
    if task is plan_task:
        environment[SWEEP_FOLDER] = tempfile.gettempdir()  # a dry run claims no folder
    started: list[bool] = []
    failed: list[UsageError | RunError] = []

    @functools.wraps(task)
    def guarded(composed: DictConfig) -> Any:
        started.append(True)
        try:
            return task(composed)
        except (UsageError, RunError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra names the job, goes on with the others and raises at the end
            failed.append(error)  # raised below, without Hydra's line about the job

    with _as_main(arguments, environment):
        try:
            for line in lines:
                sys.argv = ["rws run", *line]
                try:
                    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(guarded)()
                except (UsageError, RunError) as error:
                    failed.append(error)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            raise UsageError(explain(error)) from error
        except NOT_COMPOSED as error:
            if started:
                raise
            raise UsageError(explain(error)) from error
        finally:
            swept = os.environ.pop(SWEEP_FOLDER, None)
    if swept:
        after_sweep(Path(swept))
    if failed:
        raise failed[0]


def sweep_to_resume(path: str) -> tuple[Path, list[str]] | None:
    """The folder of a sweep and the arguments that started it; None where the path is no sweep's."""
    from rws_cli.runs.folder import read_json

    folder = Path(path).expanduser().resolve()
    if not (folder / SWEEP_FILE).is_file():
        return None
    return folder, shlex.split(read_json(folder / SWEEP_FILE)["command"])[2:]


def check_arguments(arguments: list[str]) -> None:
    """Hydra makes objects of what stands at some keys of its own: callbacks, logging, and any _target_. From a command
    line or a folder of configurations they could be anything, so they are refused.

    Raises UsageError.
    """
    for argument in arguments:
        if found := MAKES_OBJECTS.search(argument):
            raise UsageError(
                f"{argument}: {found[0]} would make Python objects of a configuration, which rws does not do."
            )
    for flag, folder in itertools.pairwise(arguments):
        if flag in ("--config-dir", "-cd"):
            for file in [*Path(folder).rglob("*.yaml"), *Path(folder).rglob("*.yml")]:
                if found := MAKES_OBJECTS.search(file.read_text(encoding="utf-8", errors="replace")):
                    raise UsageError(
                        f"{file}: {found[0].strip()} would make Python objects of a configuration, which rws does not do."
                    )


def sweeps(arguments: list[str]) -> list[list[str]]:
    """The command lines that one stands for: itself, but where its experiment lists `sweeps`.

    That is a list of lists of overrides: one of each list makes a sweep, and all of them go into one folder. So samplers
    can each be swept over settings of their own. What the command line sets wins.
    """
    chosen = [argument for argument in arguments if argument.startswith("+experiment=") and "," not in argument]
    for flag in ("--config-dir", "-cd"):
        if chosen and flag in arguments:
            folder = Path(arguments[arguments.index(flag) + 1]).absolute()
            chosen.append(f"hydra.searchpath=[file://{folder}]")
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            listed = hydra.compose("config", chosen).sweeps if chosen else None
    except NOT_COMPOSED as error:
        raise UsageError(explain(error)) from error
    if not listed:
        return [arguments]
    first = next(  # behind all flags and their values, which sort_flags put in front
        n
        for n, argument in enumerate(arguments)
        if not argument.startswith("-") and arguments[n - 1] not in FLAGS_WITH_VALUE
    )
    flags, given = arguments[:first], arguments[first:]
    found = []
    for number, parts in enumerate(itertools.product(*listed)):
        numbered = f"hydra.sweep.subdir={number:03d}-${{hydra.job.num}}"
        found.append([*flags, "~sweeps", numbered, *shlex.split(" ".join(parts)), *given])
    return found


def sort_flags(arguments: list[str]) -> list[str]:
    """Flags before overrides, as Hydra 1.3.8 wants them; `experiment=x` is taken as `+experiment=x`.

    Raises UsageError for a flag that nobody knows.
    """
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            name = argument.split("=", 1)[0]
            if name not in FLAGS:
                raise UsageError(
                    f"{name} is not an option of rws run{nearest(name, [*FLAGS, '--resume', '--dry-run']) or '.'}"
                )
            flags.append(argument)
            if argument in FLAGS_WITH_VALUE:
                flags += [value for value in [next(rest, None)] if value is not None]
        else:
            overrides.append("+" + argument if argument.startswith("experiment=") else argument)
    return flags + overrides


def _claim_sweep(output: str) -> str:
    """A sweep's folder, claimed once; jobs in other processes find it in the environment."""
    from rws_cli.runs.folder import claim_version, point_latest, write_json

    if SWEEP_FOLDER not in os.environ:
        folder = claim_version(Path(output) / "multirun")
        write_json(folder / SWEEP_FILE, {"command": os.environ[COMMAND]})
        point_latest(folder)
        os.environ[SWEEP_FOLDER] = str(folder)
    return os.environ[SWEEP_FOLDER]


@contextmanager
def _as_main(arguments: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Give Hydra the command line it expects, and put everything back."""
    argv, handlers = sys.argv, logging.root.handlers[:]
    before = {name: os.environ.get(name) for name in (*environment, SWEEP_FOLDER, RESUME)}
    sys.argv = ["rws run", *arguments]
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.argv = argv
        logging.root.handlers[:] = handlers
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
