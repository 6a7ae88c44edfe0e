"""`rws corpus`: token frequencies."""

from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, command, takes_parts
from rws_cli.errors import UsageError, display_path


@command(DECODE)
@takes_parts
def corpus(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]... [OVERRIDES]...", help="Text or data files; the model: model=NAME"),
    ] = None,
    hub: Annotated[str | None, typer.Option(help="A data set on the Hugging Face hub.")] = None,
    subset: Annotated[str | None, typer.Option(help="Its subset.")] = None,
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Its revision.")] = None,
    field: Annotated[str, typer.Option(help="The field of a row that holds the text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents to read; all of them if not given.")] = None,
) -> None:
    """Count a corpus' tokens for orders that read frequencies; keep what you evaluate on out of it."""
    from rws_cli import registry
    from rws_cli.config.composing import compose
    from rws_cli.runs.corpus import Corpus, count_corpus

    overrides = [argument for argument in arguments or [] if "=" in argument]
    files = [argument for argument in arguments or [] if "=" not in argument]
    if not files and not hub:
        raise UsageError("There is nothing to count: give text files, data files, or --hub NAME.")
    written = count_corpus(compose(*overrides), Corpus(files, hub, subset, split, revision, field, limit))
    typer.echo(display_path(written))
    for name, order in registry.available("order").items():
        if "frequencies" in order.settings:
            typer.echo(f"Use it with sampler={name} sampler.{name}.frequencies={display_path(written)}")
