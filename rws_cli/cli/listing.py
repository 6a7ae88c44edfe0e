"""`rws list`."""

from typing import Annotated

import typer

from rws_cli.cli.base import DISCOVER, command, takes_parts
from rws_cli.errors import UsageError, choose_from


@command(DISCOVER, name="list")
@takes_parts
def list_(
    group: Annotated[str | None, typer.Argument(help="A group, such as model or experiment. Default: all.")] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="A choice in the group: shows its description and every setting with default and meaning."),
    ] = None,
) -> None:
    """List what can be chosen, one line each, or describe one choice in full."""
    from rws_cli.config.catalog import GROUPS, choices

    if group is not None and group not in GROUPS:
        raise UsageError(f"{group} is not a group: {choose_from(group, GROUPS)}")
    if group is not None and name is not None:
        from rws_cli.cli.describe import print_choice

        print_choice(group, name)
        return
    for each in [group] if group else GROUPS:
        descriptions = choices(each)
        width = max(map(len, descriptions), default=0)
        if not group:
            typer.secho(each, bold=True)
        for choice, description in descriptions.items():
            typer.echo(f"{'' if group else '  '}{choice:<{width}}  {description}")
