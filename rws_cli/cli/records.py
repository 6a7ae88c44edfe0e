"""Commands on a finished run's records: grade, measure, push."""

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
    """Grade a run's answers again, without decoding."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs import regrade
    from rws_cli.runs.folder import find_run

    folder = find_run(run)
    changed = regrade.regrade(folder, overrides or [])
    print_run(folder)
    kept = "; samples.jsonl keeps the old ones as grades_before" if changed else ""
    typer.echo(f"{changed} grades changed{kept}")


@command(POST_PROCESS)
@takes_parts
def measure(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="Metrics and their settings: metric=[length,diversity]"),
    ] = None,
) -> None:
    """Measure a run's answers with more metrics, without decoding."""
    from rws_cli.report.terminal import print_run
    from rws_cli.runs import regrade
    from rws_cli.runs.folder import find_run

    folder = find_run(run)
    regrade.measure(folder, overrides or [])
    print_run(folder)


@command(POST_PROCESS)
def push(
    run: RunArgument,
    to: Annotated[str, typer.Argument(metavar="TO", help="USER/NAME on the Hugging Face hub, or ./a/folder.")],
    public: Annotated[bool, typer.Option("--public", help="If it is new on the hub, for everyone to see.")] = False,
) -> None:
    """A run as a data set with a card, on the Hugging Face hub or in a folder."""
    from rws_cli.report.push import push as push_run
    from rws_cli.runs.folder import find_run

    typer.echo(push_run(find_run(run), to, public))
