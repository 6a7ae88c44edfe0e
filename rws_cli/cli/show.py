"""Commands that show a run: show, report, replay."""

from __future__ import annotations

from typing import Annotated

import typer

from rws_cli.cli.base import INSPECT, RunArgument, command
from rws_cli.errors import UsageError, display_path


@command(INSPECT)
def show(run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, finished or running.")]) -> None:
    """Summary of a run."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs.folder import find_run

    print_run(find_run(run))


@command(INSPECT)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
    out: Annotated[
        str | None, typer.Option(help="Where to write; report.html in the first folder if not given.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write single figures as PNG instead.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write single figures as PDF instead.")] = False,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="A figure to write: order, order_heatmap, by_step, god, reversals; all if not given."),
    ] = None,
    example: Annotated[
        str | None, typer.Option(help="The example that the figure order shows: its id, or its number from 0.")
    ] = None,
) -> None:
    """Runs as one HTML file to look at: numbers, figures, and each example to replay; or figures for a paper."""
    from rws_cli.report.figures import write_figures
    from rws_cli.report.html import write_reports

    formats = [form for form, wanted in (("png", png), ("pdf", pdf)) if wanted]
    if (figure or example) and not formats:
        raise UsageError("--figure and --example choose what --png and --pdf write: add one of these.")
    written = write_figures(runs, out, figure or [], formats, example) if formats else write_reports(runs, out)
    for path in written:
        typer.echo(display_path(path))


@command(INSPECT)
def replay(
    run: RunArgument,
    example: Annotated[
        str | None,
        typer.Argument(metavar="EXAMPLE", help="An example's id, or its number from 0; the first if not given."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line a step, as where there is no terminal.")] = False,
) -> None:
    """Watch how an answer came about: masks fill in, the reward ticks beside. Keys are shown below."""
    from rws_cli.report.replay import play, print_plain, scenes
    from rws_cli.report.terminal import wide_console
    from rws_cli.runs.folder import find_run

    found, start = scenes(find_run(run), example)
    console = wide_console()
    if plain or not console.is_terminal:
        print_plain(found[start], console)
    else:
        play(found, start, console)
