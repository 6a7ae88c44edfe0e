"""`rws likelihood`: how likely texts are under a model."""

import json
import os
import sys
from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, Overrides, command, takes_parts
from rws_cli.errors import UsageError


@command(DECODE)
@takes_parts
def likelihood(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help="A text; - reads it from standard input; or a data file with a field text, and prompt if any.",
        ),
    ],
    overrides: Overrides = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What the text follows, as a user's turn; without a chat template also a space between the two is part of the text.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per text.")] = False,
) -> None:
    """Estimate the log likelihood of a text, or of each text in a file. Writes no run folder.

    Example: rws likelihood "so 21 - 2 = 19 + 10 #### 29" --prompt "ben has 21 apples, gives 2 away, wins 10. how many now?"
    """
    from rws_cli.files import warn
    from rws_cli.likelihood.score import together
    from rws_cli.runs.generate import decoded
    from rws_cli.runs.likelihood import Item, configured, is_file, read_items, score_items

    config = configured(overrides or [])
    if is_file(text):
        if prompt is not None:
            raise UsageError("--prompt does not apply to a file: give its rows a field prompt.")
        items = read_items(text)
    elif text == "-":
        items = [Item(decoded(sys.stdin.buffer.read().replace(b"\r\n", b"\n")).rstrip("\n"), prompt)]
    else:
        items = [Item(decoded(os.fsencode(text)), prompt)]
    scores, lengths = score_items(config, items, warn)
    if as_json:
        for item, each, length in zip(items, scores, lengths, strict=True):
            result = {"text": item.text, "prompt": item.prompt} | together([each], [length])
            typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        from rws_cli.report.terminal import print_likelihood

        print_likelihood(config, len(scores), together(scores, lengths))
