"""Prints runs, plans and findings on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rws_cli.analysis.measures import MEASURES, measure
from rws_cli.analysis.summary import summarize
from rws_cli.config.schema import Config
from rws_cli.errors import display_path, printable
from rws_cli.runs.folder import find_runs, read_json
from rws_cli.runs.records import read_samples

if TYPE_CHECKING:  # it imports torch, which tables do without
    from rws_cli.runs.doctor import Finding


def number(value: float | int | None, form: str = ",.3f") -> str:
    return "–" if value is None else format(value, form)


def signed_number(value: float, form: str) -> str:
    """A number with its sign; one that rounds to zero gets a plus."""
    return re.sub(r"^-(0\.?0*)$", r"+\1", format(value, "+" + form))


def wide_console() -> Console:
    """Standard output. Without a terminal it is wide, so that nothing is cut."""
    console = plain_console()
    return console if console.is_terminal else plain_console(width=max(console.width, 120))


def plain_console(**options: Any) -> Console:
    """Standard output, without markup."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def rows_of(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """A run's measures as lines of name and value."""
    return [_row("examples", ",.0f", metrics), *_quality(metrics), *_decoding(metrics), *_cost(metrics)]


Rows = Iterator[tuple[str, str]]


def _row(name: str, form: str, metrics: dict[str, Any], note: str = "") -> tuple[str, str]:
    """A measure's name, and its value in a format."""
    measure = MEASURES[name]
    return measure.display_name, number(measure.of_run(metrics), form) + note


def _quality(metrics: dict[str, Any]) -> Rows:
    if metrics["accuracy"] is not None:
        interval = metrics["accuracy_interval"]
        within = f"  (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
        yield _row("accuracy", ".1%", metrics, within)
        yield from (_row(f"pass@{k}", ".1%", metrics) for k in metrics["pass_at"] or {})
        yield _row("partial", ".1%", metrics)
    yield _row("reward", ",.3f", metrics)
    for name, value in metrics.get("measures", {}).items():
        yield measure(name).display_name, number(value, ".1%" if measure(name).percent else ",.3f")


def _decoding(metrics: dict[str, Any]) -> Rows:
    yield _row("god", ".2f", metrics, f"  ({MEASURES['god'].description})")
    within = MEASURES["god_tokens_in_block"]
    if within.of_run(metrics) != MEASURES["god"].of_run(metrics):  # there are several blocks
        yield _row(within.name, ".2f", metrics, f"  ({within.description})")
    yield _row("kendall_tau", ".2f", metrics, "  (1: left to right)")
    if metrics.get("guidance"):
        temperature = f"  (temperature {number(MEASURES['temperature'].of_run(metrics))})"
        yield _row("scale", ",.3f", metrics, temperature)
        yield _row("reversals", ".1%", metrics, f"  ({MEASURES['reversals'].description})")
        yield _row("changed_selections", ".1%", metrics, f"  ({MEASURES['changed_selections'].description})")
    if metrics.get("near_ties") is not None:
        yield _row("near_ties", ".1%", metrics, " of tokens")


def _cost(metrics: dict[str, Any]) -> Rows:
    cost = metrics["cost"]
    yield _row("mdm_passes", ",.1f", metrics, f" per example, {cost['mdm_tokens']:,} tokens")
    tokens = f", {cost['reward_tokens']:,} tokens" if cost["reward_tokens"] else ""
    cached = f"; {cost['reward_cache_hits']:,} from the cache" if cost["reward_cache_hits"] else ""
    final = "; final rewards are not counted" if metrics["reward"] is not None and not cost["reward_calls"] else ""
    yield _row("reward_calls", ",.1f", metrics, f" per example{tokens}{cached}{final}")
    parts = f"model {cost['mdm_seconds']:,.1f}, reward {cost['reward_seconds']:,.1f}"
    yield _row("seconds", ",.3f", metrics, f" per example, {cost['seconds']:,.1f} in total ({parts})")
    yield _row("tokens_per_second", ",.0f", metrics)
    if "peak_memory_bytes" in cost:
        yield MEASURES["peak_memory_bytes"].display_name, f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB"
    if "run_seconds" in cost:
        yield _row("run_seconds", ",.1f", metrics, " s")


def print_run(folder: Path) -> None:
    """Print a run's table and path; an unfinished run shows its results so far."""
    console = plain_console()
    manifest = read_json(folder / "manifest.json")
    config, status = manifest["config"], manifest["status"]
    title = f"{config['benchmark']['name']} · {config['model']['name']} · {config['sampler']['name']} · " \
            f"reward {config['reward']['name']} · seed {config['seed']}"  # fmt: skip
    table = Table(title=printable(title), show_header=False)
    samples = read_samples(folder)
    metrics_file = folder / "metrics.json"
    if samples:
        metrics = read_json(metrics_file) if status == "finished" and metrics_file.exists() else summarize(samples)
        for row in rows_of(metrics):
            table.add_row(*map(printable, row))
    if status != "finished":
        table.add_row(
            "status",
            f"{printable(status)}, {len(samples)} of {manifest['sources']['benchmark']['examples']} examples done",
        )
        if manifest["error"]:
            table.add_row("error", printable(manifest["error"]))
    console.print(table)
    console.print(f"{display_path(folder)}", soft_wrap=True)
    print_hint(console, folder)


def print_hint(console: Console, folder: Path) -> None:
    """On a terminal, suggest commands for a run or sweep; for scripts the path stays the last line."""
    if console.is_terminal:
        run = find_runs(str(folder))[0]
        how = f"rws report {display_path(folder)} · rws replay {display_path(run)}"
        console.print(how, style="dim", soft_wrap=True)


def print_likelihood(config: Config, texts: int, result: dict[str, Any]) -> None:
    """Print the log likelihood of texts, with the 95 % intervals that the draws of masks leave."""
    console, at_most = plain_console(), "" if config.model.topology.block_size == 1 else ", at most"
    low, high = result["interval"]
    least, most = result["perplexity_interval"]
    table = Table(title=printable(f"likelihood · {config.model.name} · seed {config.seed}"), show_header=False)
    if texts > 1:
        table.add_row("texts", f"{texts:,}")
    table.add_row("tokens", f"{result['tokens']:,}")
    table.add_row(
        f"log likelihood{at_most.replace('most', 'least')}",
        f"{result['log_likelihood']:,.3f}  (standard error {result['standard_error']:.3f}; 95 % interval {low:,.3f} to {high:,.3f})",
    )
    table.add_row(f"perplexity{at_most}", f"{result['perplexity']:,.3f}  (95 % interval {least:,.3f} to {most:,.3f})")
    table.add_row(
        "model passes", f"{result['mdm_passes']:,}, {result['mdm_tokens']:,} tokens, {result['seconds']:.1f} s"
    )
    console.print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings of rws doctor."""
    console = wide_console()
    table = Table(show_header=False, box=None)
    for finding in findings:
        sign = {True: Text("✓", "green"), False: Text("✗", "red"), None: Text("–")}[finding.ok]
        table.add_row(sign, printable(finding.name), printable(finding.detail))
    console.print(table)


def print_calibration(file: Path) -> None:
    """Print the result of rws calibrate, and its path."""
    console, stored = wide_console(), read_json(file)
    table = Table(title="Statistics of the reward's scores", show_header=False)
    for name in ("n", "mean", "std", "min", "max"):
        table.add_row(name, f"{stored[name]:,}")
    for quantile, value in stored["quantiles"].items():
        table.add_row(f"{float(quantile):.0%} quantile", f"{value:,}")
    console.print(table)
    by_progress = Table(title="Mean score by progress", show_header=True)
    for column in ("tokens committed", "along decodings", "random masks, completed in one pass"):
        by_progress.add_column(column, justify="right")
    for n, (along, masked) in enumerate(
        zip(stored["decodings_by_progress"], stored["masked_by_progress"], strict=True)
    ):
        shown_along = f"{along['mean']:,.3f} ± {along['std']:,.3f}" if along else "–"
        by_progress.add_row(f"{n / 10:.0%}", shown_along, f"{masked['mean']:,.3f} ± {masked['std']:,.3f}")
    console.print(by_progress)
    console.print(
        f"{stored['source']} Runs with the same model, reward and benchmark use these statistics where the reward brings "
        "none of its own; elsewhere set reward.statistics to the file.",
        soft_wrap=True,
    )
    console.print(display_path(file), soft_wrap=True)


def print_plan(config: Config, plan: dict[str, Any]) -> None:
    """Print the result of a dry run."""
    console = plain_console()
    table = Table(title="Plan: nothing was run", show_header=False)
    sampler = config.sampler
    table.add_row("model", f"{config.model.name}  ({config.model.path})")
    table.add_row("reward", config.reward.name)
    table.add_row(
        "sampler",
        f"{sampler.name}: {sampler.gen_length} tokens, {sampler.blocks} block(s) of {sampler.block_length}, "
        f"order {sampler.order}, guidance {sampler.guidance.kind}",
    )
    table.add_row("benchmark", config.benchmark.name)
    for name, value in plan.items():
        form = "" if isinstance(value, str) else ".3g" if "FLOP" in name else ",d"
        table.add_row(name, "unknown before the checkpoint is here" if value is None else format(value, form))
    console.print(table)
