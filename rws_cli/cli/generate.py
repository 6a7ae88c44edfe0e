"""`rws generate`: one prompt, decoded now."""

import json
import os
import sys
from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, Overrides, command, takes_parts


@command(DECODE)
@takes_parts
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads it from standard input.")],
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The answer, its trace and the configuration as JSON.")
    ] = False,
) -> None:
    """Decode one prompt, live on a terminal; elsewhere the answer alone. Leaves no run folder.

    Example: rws generate "ben has 21 apples, gives 2 away, wins 10. how many now?" sampler=rws
    """
    from rws_cli.runs.generate import Generation, configured, decoded

    piped = prompt == "-"
    text = decoded(sys.stdin.buffer.read().replace(b"\r\n", b"\n") if piped else os.fsencode(prompt))
    generation = Generation(configured(text.rstrip("\n") if piped else text, overrides or []))
    if as_json:
        typer.echo(json.dumps(generation(), ensure_ascii=False, allow_nan=False))
    elif sys.stdout.isatty():
        from rws_cli.report.watch import watch

        watch(generation)
    else:
        typer.echo(generation()["sample"]["completion"])
