"""`rws doctor`."""

import typer

from rws_cli.cli.base import DISCOVER, Overrides, command, takes_parts


@command(DISCOVER)
@takes_parts
def doctor(overrides: Overrides = None) -> None:
    """What this machine has, and whether the configured model fits; exit code 1 if something is amiss."""
    from rws_cli.config.composing import compose
    from rws_cli.report.terminal import print_findings
    from rws_cli.runs.doctor import examine

    findings = examine(compose(*(overrides or [])))
    print_findings(findings)
    if any(finding.well is False for finding in findings):
        raise typer.Exit(1)
