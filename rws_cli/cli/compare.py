"""Commands that compare runs: compare, table, pareto, judge."""

from typing import Annotated

import typer

from rws_cli.cli.base import COMPARE, command, takes_parts
from rws_cli.errors import UsageError

JUDGING = ("judge", "trust_remote_code", "pins.")
"""What a judge's settings start with."""


@command(COMPARE)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
) -> None:
    """Runs side by side, paired by example, with intervals of the difference to the first."""
    from rws_cli.report.compare import print_comparisons
    from rws_cli.runs.folder import find_all

    folders = find_all(runs)
    if len(folders) < 2:
        raise UsageError("One run cannot be compared: give two or more run folders, or a sweep's folder.")
    print_comparisons(folders)


@command(COMPARE)
def table(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder; or several run folders.")],
) -> None:
    """A sweep as a table, here and as table.md, table.csv and table.tex in the first folder; Markdown in a pipe."""
    from rws_cli.report.table import print_tables

    print_tables(folders)


@command(COMPARE)
def pareto(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder; or several run folders.")],
    against: Annotated[
        str, typer.Option(help="The sampler that others are compared with at equal cost.")
    ] = "best_of_n",
) -> None:
    """A sweep as curves of accuracy and reward against cost: pareto.svg, .md and .csv in the first folder."""
    from rws_cli.report.pareto import write_pareto

    typer.echo(write_pareto(folders, against))


@command(COMPARE)
@takes_parts
def judge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN... [OVERRIDES]...",
            help="Run folders, or a sweep's; then a judge and its settings: judge=local judge.path=…",
        ),
    ],
) -> None:
    """Ask a judge which answers are better, each run's against the first one's, in both orders."""
    from rws_cli.config.composing import compose
    from rws_cli.report.compare import print_comparisons
    from rws_cli.runs.folder import find_all
    from rws_cli.runs.judging import judge_runs

    overrides = [argument for argument in arguments if "=" in argument]
    folders = find_all(argument for argument in arguments if "=" not in argument)
    if len(folders) < 2:
        raise UsageError("One run cannot be judged: give two or more run folders, or a sweep's folder.")
    if stray := [override for override in overrides if not override.lstrip("+").split("@")[-1].startswith(JUDGING)]:
        raise UsageError(f"{stray[0]} cannot be set when judging: write judge=… or judge.key=value.")
    settings = compose(*overrides).judge
    if not settings.judges:
        raise UsageError("No judge is named: write judge=reward, local or openai; rws list judge shows all.")
    judge_runs(folders, settings)
    print_comparisons(folders)
