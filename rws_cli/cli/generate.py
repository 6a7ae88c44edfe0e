"""`rws generate`: decode one prompt."""

import json
import os
import sys
from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, Overrides, command, takes_parts


@command(DECODE)
@takes_parts
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.")],
    overrides: Overrides = None,
    canvas: Annotated[
        str | None,
        typer.Option(help="The completion, of which only masks are decoded; [MASK:12] stands for twelve of them."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the completion, its trace and the configuration as JSON.")
    ] = False,
) -> None:
    """Decode one prompt: animated on a terminal, otherwise only the completion. Writes no run folder.

    Example: rws generate "ben has 21 apples, gives 2 away, wins 10. how many now?" sampler=rws

    Infilling: rws generate "ben has 21 apples, gives 2 away, wins 10. how many now?" --canvas "so 21 -[MASK:5] ####[MASK]"
    """
    from rws_cli.files import warn
    from rws_cli.runs.generate import Generation, configured, decoded

    piped = prompt == "-"
    text = decoded(sys.stdin.buffer.read().replace(b"\r\n", b"\n") if piped else os.fsencode(prompt))
    generation = Generation(configured(text.rstrip("\n") if piped else text, overrides or [], canvas))
    for line in generation.prepared.warnings:
        warn(line)
    if as_json:
        typer.echo(json.dumps(generation(), ensure_ascii=False, allow_nan=False))
    elif sys.stdout.isatty():
        from rws_cli.report.watch import watch

        watch(generation)
    else:
        typer.echo(generation()["sample"]["completion"])
