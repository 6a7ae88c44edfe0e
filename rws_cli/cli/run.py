"""`rws run`."""

from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, ConfigDir, Overrides, command, takes_parts


@command(
    DECODE,
    epilog="Examples: rws run · rws run sampler=confidence benchmark=arithmetic · rws run -m sampler=rws,random seed=0,1",
)
@takes_parts
def run(
    overrides: Overrides = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Run a sweep: every combination of comma-separated values.")
    ] = False,
    cfg: Annotated[
        str | None, typer.Option("--cfg", "-c", help="Print a configuration and exit: job, hydra or all.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: resolve interpolations.")] = False,
    config_dir: ConfigDir = None,
    config_name: Annotated[
        str | None, typer.Option("--config-name", "-cn", help="Compose from this file instead of config.yaml.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Resume an interrupted run or sweep.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the settings and print the plan and its cost; run nothing.")
    ] = False,
) -> None:
    """Decode a benchmark and write a run folder.

    `rws list` shows what can be chosen; `rws run --cfg job` shows every setting.
    """
    from rws_cli import registry
    from rws_cli.cli import jobs

    flags = {"--config-dir": config_dir, "--config-name": config_name, "--cfg": cfg}
    arguments = [*(["--multirun"] if multirun else []), *(["--resolve"] if resolve else [])]
    arguments += [f"--parts={folder}" for folder in registry.folders()]
    arguments += [f"{name}={value}" for name, value in flags.items() if value is not None]
    jobs.run([*arguments, *(overrides or [])], resume, dry_run)
