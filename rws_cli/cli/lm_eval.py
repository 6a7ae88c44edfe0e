"""`rws lm-eval`: lm-evaluation-harness with the model `rws`."""

from typing import Annotated

import typer
from typer.core import TyperCommand

from rws_cli.cli.base import DECODE, app
from rws_cli.errors import UsageError, display_path


@app.command(
    "lm-eval",
    cls=TyperCommand,
    rich_help_panel=DECODE,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def lm_eval(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS", help="lm-eval's own arguments.")] = None,
) -> None:
    """Start lm-evaluation-harness with the model rws: --model rws --model_args sampler=rws,model=tiny --tasks …"""
    try:
        from rws_cli.runs.lm_eval import evaluate
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UsageError("rws lm-eval needs the package lm-eval: pip install 'rws[lm_eval]'.") from error

    for folder in evaluate(arguments or []):
        typer.echo(f"run folder: {display_path(folder)}")
