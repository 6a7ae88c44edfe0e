"""Commands that post-process a finished run: grade, measure, push."""

from typing import Annotated

import typer

from rws_cli.cli.base import POST_PROCESS, RunArgument, command, takes_parts


@command(POST_PROCESS)
@takes_parts
def grade(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OVERRIDES", help="Settings of the benchmark: benchmark.key=value")
    ] = None,
) -> None:
    """Grade a run's completions again, without decoding."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs import regrade
    from rws_cli.runs.folder import find_run

    folder = find_run(run)
    changed = regrade.regrade(folder, overrides or [])
    print_run(folder)
    note = "; samples.jsonl keeps the old ones as grades_before" if changed else ""
    typer.echo(f"grades changed: {changed}{note}")


@command(POST_PROCESS)
@takes_parts
def measure(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="Metrics and their settings: metric=[length,diversity]"),
    ] = None,
) -> None:
    """Add metrics to a run's completions, without decoding."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs import regrade
    from rws_cli.runs.folder import find_run

    folder = find_run(run)
    regrade.measure(folder, overrides or [])
    print_run(folder)


@command(POST_PROCESS)
def push(
    run: RunArgument,
    to: Annotated[str, typer.Argument(metavar="TO", help="USER/NAME on the Hugging Face Hub, or a local ./folder.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new data set on the Hub public.")] = False,
) -> None:
    """Publish a run as a data set with a card, on the Hugging Face Hub or in a folder."""
    from rws_cli.report.push import push as push_run
    from rws_cli.runs.folder import find_run

    typer.echo(push_run(find_run(run), to, public))
