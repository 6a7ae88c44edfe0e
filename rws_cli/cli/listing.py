"""`rws list`."""

from typing import Annotated

import typer

from rws_cli.cli.base import DISCOVER, command, takes_parts
from rws_cli.errors import UsageError, choose_from

MEASURE = "measure"
"""What can be listed besides configuration groups."""


def complete_group(incomplete: str) -> list[str]:
    """Shell completion of a group."""
    from rws_cli.config.catalog import GROUPS

    return [group for group in (*GROUPS, MEASURE) if group.startswith(incomplete)]


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Shell completion of a choice, in the group that was typed."""
    from rws_cli.analysis.measures import all_measures
    from rws_cli.config.catalog import GROUPS, choices

    group = context.params.get("group")
    names = all_measures() if group == MEASURE else choices(group) if group in GROUPS else {}
    return [name for name in names if name.startswith(incomplete)]


@command(DISCOVER, name="list")
@takes_parts
def list_(
    group: Annotated[
        str | None,
        typer.Argument(
            help="A group, such as model or experiment; or measure. Default: all.", autocompletion=complete_group
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A choice in the group: shows its description and every setting with default and meaning; of a measure, "
            "its unit, formula and source.",
            autocompletion=complete_name,
        ),
    ] = None,
) -> None:
    """List what can be chosen or measured, one line each, or describe one of them in full."""
    from rws_cli.config.catalog import GROUPS, choices

    if group is not None and group not in (*GROUPS, MEASURE):
        raise UsageError(f"{group} is not a group: {choose_from(group, (*GROUPS, MEASURE))}")
    if group is not None and name is not None:
        _print_one(group, name)
        return
    for each in [group] if group else (*GROUPS, MEASURE):
        indent = "" if group else "  "
        if not group:
            typer.secho(each, bold=True)
        if each == MEASURE:
            from rws_cli.cli.measures import print_measures

            print_measures(indent)
            continue
        _print_choices(choices(each), each, indent)


def _print_choices(descriptions: dict[str, str], group: str, indent: str) -> None:
    """Print one line per choice; samplers by family."""
    by_family, headings = {"": list(descriptions)}, {"": ""}
    if group == "sampler":
        from rws_cli.config import families

        by_family, headings = families.by_family(list(descriptions)), families.FAMILIES
    width = max(map(len, descriptions), default=0)
    for family, names in by_family.items():
        if family and names:
            typer.secho(f"{indent}{family}: {headings[family]}", dim=True)
        for name in names:
            typer.echo(f"{indent}{'  ' if family else ''}{name:<{width}}  {descriptions[name]}")


def _print_one(group: str, name: str) -> None:
    """Describe a measure, or a choice of a group."""
    if group == MEASURE:
        from rws_cli.cli.measures import print_measure

        print_measure(name)
    else:
        from rws_cli.cli.describe import print_choice

        print_choice(group, name)
