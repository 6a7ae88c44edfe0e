"""Commands that compare runs: compare, table, pareto, judge."""

from typing import Annotated

import typer

from rws_cli.cli.base import COMPARE, command, takes_parts
from rws_cli.errors import UsageError

JUDGING = ("judge", "trust_remote_code", "pins.")
"""The prefixes of settings that `rws judge` accepts."""


@command(COMPARE)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
) -> None:
    """Compare runs, paired by example, with confidence intervals for the difference from the first."""
    from rws_cli.report.compare import print_comparisons
    from rws_cli.runs.folder import find_all

    folders = find_all(runs)
    if len(folders) < 2:
        raise UsageError("Comparing needs at least two runs: give run folders, or a sweep's folder.")
    print_comparisons(folders)


@command(COMPARE)
def table(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder, or several run folders.")],
) -> None:
    """Print a sweep as a table, and write table.md, table.csv and table.tex to the first folder; prints Markdown in a pipe."""
    from rws_cli.report.table import print_tables

    print_tables(folders)


@command(COMPARE)
def pareto(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder, or several run folders.")],
    against: Annotated[
        str,
        typer.Option(
            help="Samplers that all are compared with at equal cost, with commas between them. Default: confidence, dus and "
            "left_to_right, as far as they are there.",
            show_default=False,
        ),
    ] = "",
    cost: Annotated[
        str, typer.Option(help="The axis of cost: tokens, mdm_passes, mdm_rows (passes × canvases) or seconds.")
    ] = "tokens",
) -> None:
    """Plot a sweep's accuracy and reward against cost: writes pareto.svg, .md and .csv to the first folder."""
    from rws_cli.report.pareto import write_pareto

    typer.echo(write_pareto(folders, [label for label in against.split(",") if label], cost))


@command(COMPARE)
@takes_parts
def judge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN... [OVERRIDES]...",
            help="Run folders or a sweep's folder, then a judge and its settings: judge=local judge.path=…",
        ),
    ],
) -> None:
    """Ask a judge which completions are better: each run's against the first run's, in both orders."""
    from rws_cli.config.check import CONSENT
    from rws_cli.config.composing import compose
    from rws_cli.report.compare import print_comparisons
    from rws_cli.runs.folder import find_all
    from rws_cli.runs.judging import judge_runs

    overrides = [argument for argument in arguments if "=" in argument]
    folders = find_all(argument for argument in arguments if "=" not in argument)
    if len(folders) < 2:
        raise UsageError("Judging needs at least two runs: give run folders, or a sweep's folder.")
    chosen = [override for override in overrides if not override.startswith(CONSENT)]
    if stray := [override for override in chosen if not override.lstrip("+").split("@")[-1].startswith(JUDGING)]:
        raise UsageError(f"{stray[0]} cannot be set when judging: set judge=… or judge.key=value.")
    settings = compose(*chosen).judge
    if not settings.judges:
        raise UsageError("No judge is chosen: set judge=reward, judge=local or judge=openai; rws list judge shows all.")
    judge_runs(folders, settings, overrides)
    print_comparisons(folders)
