"""Commands that show a run: show, report, replay."""

from __future__ import annotations

from typing import Annotated

import typer

from rws_cli.cli.base import INSPECT, RunArgument, command
from rws_cli.errors import UsageError, display_path


@command(INSPECT)
def show(run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, finished or running.")]) -> None:
    """Print a summary of a run."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs.folder import find_run

    print_run(find_run(run))


@command(INSPECT)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
    out: Annotated[str | None, typer.Option(help="Where to write. Default: report.html in the first folder.")] = None,
    png: Annotated[bool, typer.Option("--png", help="Write figures as PNG files instead.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write figures as PDF files instead.")] = False,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help="A figure to write (repeatable): order, the decoding order of one example; order_heatmap, the step at which "
            "each position is committed; by_step, mean confidence and reward per step; god, the distribution of GOD, each "
            "example's distance from left-to-right decoding; reversals, rank reversals vs. share of tokens committed. "
            "Default: all."
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(help="The example in the figure order: its id, or its number from 0. Default: the first."),
    ] = None,
) -> None:
    """Write an HTML report of runs, with numbers, figures and a replay of each example; or figures for a paper."""
    from rws_cli.report.figures import write_figures
    from rws_cli.report.html import write_reports

    formats = [form for form, wanted in (("png", png), ("pdf", pdf)) if wanted]
    if (figure or example) and not formats:
        raise UsageError("--figure and --example only apply to --png and --pdf: add one of these.")
    written = write_figures(runs, out, figure or [], formats, example) if formats else write_reports(runs, out)
    for path in written:
        typer.echo(display_path(path))


@command(INSPECT)
def replay(
    run: RunArgument,
    example: Annotated[
        str | None,
        typer.Argument(metavar="EXAMPLE", help="An example's id, or its number from 0. Default: the first."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print one line per step, as without a terminal.")] = False,
) -> None:
    """Watch an example being decoded step by step, with its reward; the keys are shown below it."""
    from rws_cli.report.replay import play, print_plain, scenes
    from rws_cli.report.terminal import wide_console
    from rws_cli.runs.folder import find_run

    recordings, start = scenes(find_run(run), example)
    console = wide_console()
    if plain or not console.is_terminal:
        print_plain(recordings[start], console)
    else:
        play(recordings, start, console)
