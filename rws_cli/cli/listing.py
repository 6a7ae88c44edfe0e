"""`rws list`."""

from typing import Annotated

import typer

from rws_cli.cli.base import DISCOVER, command, takes_parts
from rws_cli.errors import UsageError, choose_from


@command(DISCOVER, name="list")
@takes_parts
def list_(
    group: Annotated[
        str | None, typer.Argument(help="A group, such as model or experiment; all of them if not given.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="A choice of it: what it is, and every setting with its default and meaning.")
    ] = None,
) -> None:
    """What can be chosen, with a line on each; and all of one choice."""
    from rws_cli.config.catalog import GROUPS, choices

    if group is not None and group not in GROUPS:
        raise UsageError(f"{group} is not a group: {choose_from(group, GROUPS)}")
    if group is not None and name is not None:
        from rws_cli.cli.describe import print_choice

        print_choice(group, name)
        return
    for each in [group] if group else GROUPS:
        found = choices(each)
        width = max(map(len, found), default=0)
        if not group:
            typer.secho(each, bold=True)
        for choice, description in found.items():
            typer.echo(f"{'' if group else '  '}{choice:<{width}}  {description}")
