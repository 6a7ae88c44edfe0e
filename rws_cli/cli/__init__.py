"""The command line: arguments and messages. Heavy imports stay inside the commands that need them."""

import sys
from importlib import import_module
from typing import Annotated

import typer

from rws_cli import __version__
from rws_cli.cli.base import app

COMMANDS = "run lm_eval generate serve likelihood calibrate corpus show compare records listing doctor"
"""The modules of commands, in the order of the help."""
for name in COMMANDS.split():
    import_module(f"rws_cli.cli.{name}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rws {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run and compare decoding experiments on masked diffusion language models."""


def entry() -> None:
    """The installed `rws`. Characters that the locale cannot encode are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="rws")
    except BrokenPipeError:  # `rws show … | head`
        sys.stderr.close()
        raise SystemExit(1) from None
