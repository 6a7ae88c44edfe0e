"""Between Typer and Hydra: run a task for what a command line composes to, once or as a sweep.

Overrides, sweeps and launchers work as in Hydra. Hydra's errors become one sentence with exit code 2. Hydra's main
function is not used: it has options that unpickle files or change where conf/ is.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from rws_cli.config.check import check, check_consent, environment_hidden
from rws_cli.config.compatibility import seed_matters
from rws_cli.config.composing import SWEEP_DIR, Loader, check_plain, hydra_of, is_hydras, unchecked
from rws_cli.config.hydra_errors import LIBRARIES, NOT_COMPOSED, explain
from rws_cli.config.identity import config_hash
from rws_cli.config.renamed import renamed_override
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError, first_line, nearest

SWEEP_FILE = "sweep.json"
"""In a sweep's folder: the command that started it."""
VALUED = {"-c": "--cfg", "-cn": "--config-name", "-cd": "--config-dir", "--parts": "--parts"}
PLAIN = {"-m": "--multirun", "--resolve": "--resolve"}
FLAGS = [*VALUED, *VALUED.values(), *PLAIN, *PLAIN.values()]
"""Hydra's options that rws accepts; they are put before the overrides, those with a value as --option=value."""
PRINTABLE = ("job", "hydra", "all")
"""The values of --cfg."""
OURS = re.compile(r"hydra/(launcher|sweeper)=\w+|hydra\.sweep\.(dir|subdir)=.*|hydra\.mode=\w+", re.DOTALL)
"""Overrides of Hydra's own settings that a resumed sweep takes from its file."""

JobFunction = Callable[[Config, DictConfig], Any]


@environment_hidden()
def launch(
    task: JobFunction,
    arguments: list[str],
    typed: Sequence[str] | None = None,
    command: str = "",
    sweep: Path | None = None,
    after_sweep: Callable[[Path, list[str]], None] = lambda folder, typed: None,
) -> None:
    """Run a task for what the arguments compose to, or for each job of a sweep. After a sweep, even if jobs failed, call
    `after_sweep` with its folder and what the user typed.

    typed: the arguments that the user typed now, if not all; command: recorded in the sweep's folder; sweep: the folder
    of a sweep to resume. Raises UsageError if the arguments are wrong, and what the task raises.
    """
    from rws_cli.files import warn

    arguments = sort_flags(arguments)
    typed_now = list(arguments if typed is None else typed)
    loader = Loader(_flags(arguments).get("--config-dir"))
    loader.sweep_dir = str(sweep) if sweep else None
    started: list[bool] = []
    failed: list[UsageError | RunError] = []
    seeds: dict[str, int] = {}
    warned: list[str] = []

    @functools.wraps(task, assigned=())
    def guarded(composed: DictConfig) -> Any:
        started.append(True)
        try:
            config = check(composed)
            check_consent(config, typed_now)
            if not warned and (line := repeated_seed_warning(config, composed, seeds)):
                warned.append(line)
                warn(line)
            return task(config, composed)
        except (UsageError, RunError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra names the job, runs the others and raises at the end
            failed.append(error)  # raised below, without Hydra's line about the job

    for line in sweeps(arguments):
        try:
            _launch_line(loader, guarded, line, command)
        except (UsageError, RunError) as error:
            failed.append(error)
        except LIBRARIES as error:
            raise UsageError(explain(error)) from error
        except NOT_COMPOSED as error:
            if started:
                raise
            raise UsageError(explain(error)) from error
    if swept := loader.sweep_dir:
        after_sweep(Path(swept), typed_now)
    if failed:
        raise failed[0]


def repeated_seed_warning(config: Config, composed: DictConfig, seeds: dict[str, int]) -> str | None:
    """A warning if a job repeats an earlier one of its sweep under another seed, to no effect; else None.

    seeds: hash of a configuration → its first seed; updated.
    """
    values: Any = OmegaConf.to_container(composed, resolve=True)
    first = seeds.setdefault(config_hash(values | {"seed": None}), config.seed)
    if first == config.seed or seed_matters(config):
        return None
    return (
        f"seed={config.seed} gives sampler={config.sampler.name} the same tokens as seed={first}, because nothing is drawn "
        "at random with sampler.temperature=0: one seed is enough"
    )


def _launch_line(loader: Loader, task: Callable[[DictConfig], Any], line: list[str], command: str) -> None:
    """Compose one command line and run it, without Hydra callbacks."""
    flags, overrides = _flags(line), [argument for argument in line if not argument.startswith("-")]
    name, hydra = flags.get("--config-name", "config"), hydra_of(loader)
    if "--cfg" in flags:
        if flags["--cfg"] not in PRINTABLE:
            raise UsageError(f"--cfg={flags['--cfg']} is not known: choose from {', '.join(PRINTABLE)}.")
        hydra.show_cfg(name, overrides, flags["--cfg"], None, "--resolve" in flags)
        return
    composed = _composed(hydra, name, overrides, "--multirun" in flags)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    if composed.hydra.mode == RunMode.RUN:
        job = run_job(task, composed, "hydra.run.dir", None, context)
        _ = job.return_value  # raises what the task raised
        return
    if loader.sweep_dir is None:
        loader.sweep_dir = str(_begin_sweep(composed, command))
    composed.hydra.sweep.dir = loader.sweep_dir
    sweeper = Plugins.instance().instantiate_sweeper(config=composed, hydra_context=context, task_function=task)
    sweeper.sweep(arguments=typed_overrides(composed))


def _composed(hydra: Hydra, name: str, overrides: list[str], multirun: bool) -> DictConfig:
    """The configuration of a run, or of a sweep if the user or the configuration asks for one; hydra.mode says which."""
    if not multirun:
        try:
            composed = hydra.compose_config(name, overrides, RunMode.RUN)
            if composed.hydra.mode != RunMode.MULTIRUN:
                composed.hydra.mode = RunMode.RUN
                return composed
        except HydraException:  # also where a sweep's values are not valid for a run
            if hydra.get_mode(name, overrides) != RunMode.MULTIRUN:
                raise
    return hydra.compose_config(name, [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)


def typed_overrides(composed: Any) -> list[str]:
    """The overrides of a run or a job as they were typed, without those of Hydra's own settings."""
    overrides: Any = OmegaConf.to_container(composed.hydra.overrides.task)
    return [str(override) for override in overrides]


def _begin_sweep(composed: DictConfig, command: str) -> Path:
    """Create a sweep's folder: hydra.sweep.dir if the user set it, else a new one below the output folder."""
    from rws_cli.files import write_json
    from rws_cli.runs.folder import claim_version, point_latest

    folder = Path(composed.hydra.sweep.dir).absolute()
    if OmegaConf.to_container(composed.hydra.sweep)["dir"] == SWEEP_DIR:  # type: ignore[index, call-overload]
        folder = claim_version(folder)
        point_latest(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SWEEP_FILE).exists():
        write_json(folder / SWEEP_FILE, {"command": command})
    return folder


def recorded_overrides(file: Path, typed: Sequence[str]) -> list[str]:
    """The overrides that a run or a sweep was started with, read from its manifest.json or sweep.json.

    The file may be someone else's: options and Hydra's own settings are not taken from it. Raises UsageError naming
    those that the user did not type again.
    """
    from rws_cli.runs.folder import read_json

    stored = read_json(file)
    command = stored.get("command") if isinstance(stored, dict) else None
    try:
        words = sort_flags(shlex.split(str(command))[2:])
        overrides = stored["overrides"] if "overrides" in stored else [w for w in words if not w.startswith("-")]
        begun = [word for word in words if word.startswith(("--config-dir", "--config-name", "--parts"))]
        begun += [each for each in overrides if each.startswith("-") or (is_hydras(each) and not OURS.fullmatch(each))]
    except (ValueError, TypeError, AttributeError, HydraException) as error:
        raise UsageError(f"{file} does not say how it was started: {first_line(error)}.") from error
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    if not isinstance(command, str) or not isinstance(overrides, list):
        raise UsageError(
            f"{file} does not say how it was started: command must be text, and overrides a list of texts."
        )
    again = {word.partition("=")[0] for word in typed}
    if missing := shlex.join(word for word in begun if word.partition("=")[0] not in again):
        raise UsageError(
            f"{file.parent} was started with {missing}, which is not taken from a file. Type it again: rws run --resume "
            f"{file.parent} {missing}"
        )
    safe = [each for each in overrides if each not in begun and not each.startswith("hydra.sweep.dir=")]
    return [renamed_override(each, lambda old, new: None) for each in safe]


def sweeps(arguments: list[str]) -> list[list[str]]:
    """The command lines that one expands to: itself, or one per sweep if its experiment has `sweeps`.

    `sweeps` is a list of lists of overrides: each combination of one entry per list is a sweep, and all share one folder,
    so each sampler can be swept over its own settings. The command line takes precedence.
    """
    chosen = [argument for argument in arguments if argument.startswith("+experiment=") and "," not in argument]
    flags = [argument for argument in arguments if argument.startswith("-")]
    composed = unchecked(*chosen, config_dir=_flags(flags).get("--config-dir")) if chosen else None
    listed: Any = composed.sweeps if composed is not None else None
    if listed is None:
        return [arguments]
    lines = []
    try:
        for number, parts in enumerate(itertools.product(*listed)):
            words = shlex.split(" ".join(parts))
            check_plain(words, f"{chosen[0]}: sweeps")
            numbered = f"hydra.sweep.subdir={number:03d}-${{hydra.job.num}}"
            lines.append([*flags, "~sweeps", numbered, *words, *arguments[len(flags) :]])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{chosen[0]}: sweeps must be a list of lists of overrides: {error}.") from error
    return lines


def sort_flags(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags first, each one word; `experiment=x` becomes `+experiment=x`.

    Raises UsageError for an unknown flag, or one without its value.
    """
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append("+" + argument if argument.startswith("experiment=") else argument)
            continue
        name, equals, value = argument.partition("=")
        name = (VALUED | PLAIN).get(name, name)
        if name in PLAIN.values():
            flags.append(name)
        elif name in VALUED.values():
            argument_value = value if equals else next(rest, None)
            if not argument_value:
                raise UsageError(f"{name} needs a value: type {name}=VALUE.")
            flags.append(f"{name}={argument_value}")
        else:
            raise UsageError(
                f"{name} is not an option of rws run{nearest(name, [*FLAGS, '--resume', '--dry-run']) or '.'}"
            )
    return list(dict.fromkeys(flags)) + overrides


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Flags as `sort_flags` returns them: name → value."""
    return {name: value for name, _, value in (a.partition("=") for a in arguments if a.startswith("-"))}
