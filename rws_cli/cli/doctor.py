"""`rws doctor`."""

import typer

from rws_cli.cli.base import DISCOVER, Overrides, command, takes_parts


@command(DISCOVER)
@takes_parts
def doctor(overrides: Overrides = None) -> None:
    """Check this machine and whether the configured run fits it; exit code 1 if a check fails."""
    from rws_cli.config.composing import compose
    from rws_cli.report.terminal import print_findings
    from rws_cli.runs.doctor import examine

    findings = examine(compose(*(overrides or [])))
    print_findings(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
