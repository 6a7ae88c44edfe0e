"""Describe measures: `rws list measure [NAME]`."""

from collections.abc import Iterator

import typer
from rich.table import Table

from rws_cli.analysis.measure import Measure
from rws_cli.analysis.measures import WITH_EOS, all_measures, family, named
from rws_cli.report.terminal import wide_console

BETTER = {"up": "higher is better", "down": "lower is better", None: "neither higher nor lower"}
FILES = {"sample": "samples.jsonl", "metrics": "metrics.json", "trace": "trace.parquet"}


def print_measures(indent: str = "") -> None:
    """Print one line per measure; measures that only differ in a number share a line."""
    families: dict[str, Measure] = {}
    for name, measure in all_measures().items():
        if not name.endswith(WITH_EOS):
            families.setdefault(family(name), measure)
    widths = [max(map(len, texts)) for texts in (families, (measure.unit for measure in families.values()))]
    for name, measure in families.items():
        typer.echo(f"{indent}{name:<{widths[0]}}  {measure.unit:<{widths[1]}}  {measure.description}")
    typer.echo(f"{indent}…{WITH_EOS:<{widths[0] - 1}}  {'':<{widths[1]}}  an order statistic with end tokens counted")


def print_measure(name: str) -> None:
    """Print the facts about a measure. Raises UsageError for an unknown name."""
    measure, console = named(name), wide_console()
    console.print(f"{measure.description[0].upper()}{measure.description[1:]}", style="bold")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, text in facts_of(measure):
        table.add_row(label, text)
    console.print(table)


def facts_of(measure: Measure) -> Iterator[tuple[str, str]]:
    """The label and text of each fact about a measure."""
    yield "name", measure.name
    if measure.label:
        yield "in tables", measure.heading
    yield "unit", f"{measure.unit or 'unknown'}{', shown in percent' if measure.percent else ''}"
    if measure.formula:
        yield "formula", measure.formula
    yield "better", BETTER[measure.better]
    yield "compared", "example by example (paired)" if measure.paired else "not paired"
    for file in ("sample", "metrics", "trace"):
        if where := getattr(measure, file):
            yield FILES[file], where
    if not (measure.sample or measure.metrics or measure.trace):
        yield "computed", "by rws compare and rws table, from the compared runs"
    yield "source", measure.source
