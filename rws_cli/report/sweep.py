"""After a sweep: joins its jobs in one table, and judges, compares and plots them as its configuration says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rws_cli.analysis.frames import run_measures, swept_settings
from rws_cli.analysis.measures import MEASURES, WITH_EOS
from rws_cli.config.check import check_consent, check_recorded
from rws_cli.config.identity import flat
from rws_cli.errors import RunError, UsageError, display_path, printable
from rws_cli.files import write_whole
from rws_cli.report.compare import print_comparisons
from rws_cli.report.escape import csv
from rws_cli.report.terminal import print_hint, wide_console
from rws_cli.runs.folder import find_runs
from rws_cli.runs.judging import judge_runs
from rws_cli.runs.reading import by_task, read_run
from rws_cli.runs.upgrade import read_manifest


def write_sweep(folder: Path, typed: Sequence[str]) -> None:
    """Join the jobs of a sweep in sweep.csv, one line per job, and print their comparison if they can be paired.
    typed: the arguments of the command line; a judge's address is used only if it is among them."""
    if not any(folder.glob("**/metrics.json")):
        return  # no job finished; the caller knows why
    begun = find_runs(str(folder))
    runs = [run for run in begun if (run / "metrics.json").exists()]
    write_whole(folder / "sweep.csv", csv(sweep_rows(folder, begun)))
    console = wide_console()
    config = check_recorded(read_manifest(runs[0])["config"])
    if len(runs) > 1 and config.plot == "pareto":
        from rws_cli.report.pareto import write_pareto

        console.print(printable(write_pareto([folder])), soft_wrap=True)
    elif len(runs) > 1:
        try:
            if config.judge.judges:
                check_consent(config, typed)
                for group in by_task(runs):
                    judge_runs(group, config.judge, typed)
        except (UsageError, RunError) as error:
            console.print(printable(f"Not judged: {error}"))
        try:
            print_comparisons(runs)
            if config.table:
                from rws_cli.report.table import print_tables

                print_tables([folder])
        except UsageError as error:
            console.print(printable(f"Not compared: {error}"))
    console.print(printable(display_path(folder)), soft_wrap=True)
    print_hint(console, folder)


NAMED = ("benchmark.name", "model.name", "reward.name", "sampler.name", "seed")
"""Settings in every line of sweep.csv."""


def sweep_rows(folder: Path, jobs: list[Path]) -> list[dict[str, Any]]:
    """The lines of sweep.csv: job, settings that differ, status, and the measures of the jobs. Order statistics that
    count end tokens are only in `runs_frame`."""
    runs = [read_run(job, examples=False) for job in jobs]
    measures = [run_measures(run) for run in runs]
    names = dict.fromkeys(name for values in measures for name, value in values.items() if value is not None)
    columns = [name for name in names if not name.endswith(WITH_EOS)]
    rows = []
    for run, swept, values in zip(runs, swept_settings(runs), measures, strict=True):
        settings = flat(run.config)
        row = {"job": run.folder.relative_to(folder.resolve()).as_posix()}
        row |= {key: value for key, value in swept.items() if key not in MEASURES}  # reward: see reward.name
        row |= {key: settings[key] for key in NAMED} | {"overrides": " ".join(run.manifest["overrides"])}
        row |= {key: run.manifest[key] for key in ("status", "error")}
        rows.append(row | {name: values.get(name) for name in columns})
    return rows
