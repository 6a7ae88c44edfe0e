"""The end of a sweep: its jobs joined in one table, judged, compared and drawn as its configuration asks."""

from collections.abc import Sequence
from pathlib import Path

from rws_cli.config.check import check_consent, check_recorded
from rws_cli.errors import RunError, UsageError, display_path, printable
from rws_cli.files import write_whole
from rws_cli.report.compare import print_comparisons
from rws_cli.report.escape import csv
from rws_cli.report.terminal import print_hint, wide_console
from rws_cli.runs.folder import find_runs, read_json
from rws_cli.runs.judging import judge_runs
from rws_cli.runs.reading import by_task
from rws_cli.runs.upgrade import read_manifest


def write_sweep(folder: Path, typed: Sequence[str]) -> None:
    """Join a sweep's jobs in sweep.csv, one line per job, and print their comparison where they can be paired. typed: the
    arguments of the command line, without which no address of a judge is taken from a job's records."""
    if not any(folder.glob("**/metrics.json")):
        return  # no job finished; the caller knows why
    begun = find_runs(str(folder))
    runs = [run for run in begun if (run / "metrics.json").exists()]
    rows = []
    for run in begun:
        manifest = read_manifest(run)
        config = manifest["config"]
        row = {
            "job": run.relative_to(folder.resolve()).as_posix(),
            **{group: config[group]["name"] for group in ("benchmark", "model", "reward", "sampler")},
            "seed": config["seed"],
            "overrides": " ".join(manifest["overrides"]),
            "status": manifest["status"],
            "error": manifest["error"],
        }
        if run in runs:
            metrics = read_json(run / "metrics.json")
            row |= {key: metrics[key] for key in ("examples", "accuracy", "partial")} | {
                "mean_reward": metrics["reward"]
            }
            row |= {"god": metrics["order"][metrics["god"]], **metrics["cost"]}
        rows.append(row)
    write_whole(folder / "sweep.csv", csv(rows))
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
                    judge_runs(group, config.judge)
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
