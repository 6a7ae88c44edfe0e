"""`rws calibrate`."""

from rws_cli.cli.base import DECODE, ConfigDir, Overrides, command, takes_parts


@command(DECODE)
@takes_parts
def calibrate(overrides: Overrides = None, config_dir: ConfigDir = None) -> None:
    """Measure the statistics that normalize a reward's scores, on unguided decodings."""
    from rws_cli.cli.jobs import calibrate_task
    from rws_cli.cli.launching import launch

    arguments = [*([f"--config-dir={config_dir}"] if config_dir is not None else []), *(overrides or [])]
    launch(calibrate_task, arguments)
