"""Whole runs before a judge: every example's two answers, in both orders, and the verdicts kept as they come.

Verdicts lie with the run that is judged, in judgements/<judge>-<hash>/: verdicts.jsonl, and judge.json with what judged
it against what. Judging again asks only what has no verdict yet, or other answers than it had.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rws_cli.analysis.compare import by_settings, opponent, paired
from rws_cli.analysis.run import Sample
from rws_cli.analysis.verdicts import completions_hash, deciding
from rws_cli.benchmarks.base import Example
from rws_cli.config.check import check_recorded
from rws_cli.config.identity import recorded_hash
from rws_cli.errors import UsageError
from rws_cli.files import user_path, write_json
from rws_cli.judges.base import Pair
from rws_cli.models.checkpoint import Checkpoint, checkpoints, fingerprint, locate
from rws_cli.runs.folder import check_no_links
from rws_cli.runs.manifest import now
from rws_cli.runs.reading import JUDGEMENTS, read_run
from rws_cli.runs.records import append_lines, drop_broken_line, read_lines
from rws_cli.runs.upgrade import read_manifest


def judge_runs(folders: list[Path], settings: Any) -> None:
    """Put each line's runs to a judge, against the run of the first line with the same seed (the first of it, if none).

    Raises what compared and judge_run do.
    """
    runs = [read_run(folder) for folder in folders]
    paired(runs)
    first, *others = by_settings(runs)
    for run in (run for members in others for run in members):
        base = opponent(run, first)
        judge_run(settings, run.folder, base.folder, run.samples, base.samples)


def judge_run(settings: Any, run: Path, baseline: Path, samples: dict[str, Sample], base: dict[str, Sample]) -> None:
    """Put the answers of a run and a baseline (by example) to the judge that the settings name.

    Raises UsageError if the judge cannot be had or the examples are no longer those of the run, RunError if it gives
    up; its verdicts until then are kept.
    """
    config = check_recorded(read_manifest(run)["config"])
    examples = {e.id: e for e in config.benchmark.asked()}
    pairs = {i: _pair(run, examples, base[i], samples[i]) for i in samples if i in base}
    weights = _weights(settings)
    folder = run / JUDGEMENTS / f"{settings.name}-{_key(settings, weights, baseline)}"
    folder.mkdir(parents=True, exist_ok=True)
    check_no_links(folder)
    drop_broken_line(folder / "verdicts.jsonl")
    known = {(line["id"], line["order"]): line for line in read_lines(folder / "verdicts.jsonl")}
    todo = [
        (i, order)
        for i in pairs
        for order in (0, 1)
        if known.get((i, order), {}).get("completions") != completions_hash(base[i], samples[i])
    ]
    if not todo:
        return
    judge = settings.loaded(config.benchmark)
    about = {
        "judge": asdict(settings),
        "against": {"config_hash": recorded_hash(read_manifest(baseline)), "run": baseline.name},
        "at": now(),
        "weights": weights,
        "sources": _sources(settings),
    }
    write_json(folder / "judge.json", about)
    shown = [pairs[i] if order == 0 else pairs[i].swapped() for i, order in todo]
    try:
        for (i, order), verdict in zip(todo, judge.ask(shown), strict=True):
            completions = completions_hash(base[i], samples[i])
            line = {"id": i, "order": order, "first": verdict.first, "reply": verdict.reply, "completions": completions}
            append_lines(folder / "verdicts.jsonl", [line])
    finally:
        write_json(folder / "judge.json", about | judge.spent())


def _pair(run: Path, examples: dict[str, Example], base: Sample, sample: Sample) -> Pair:
    example = examples.get(sample["id"])
    if example is None or example.prompt != sample["prompt"]:
        raise UsageError(f"{run} cannot be judged: example {sample['id']} is not what it was.")
    histories = tuple(tuple((user, said) for user, said in s["history"]) for s in (base, sample))
    return Pair(example, (base["completion"], sample["completion"]), histories)  # type: ignore[arg-type]


def _key(settings: Any, weights: dict[str, Any], baseline: Path) -> str:
    against = recorded_hash(read_manifest(baseline))
    pinned = [deciding(asdict(settings)), against, *([weights] if weights else [])]
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]


def _weights(settings: Any) -> dict[str, Any]:
    """What pins the weights in local folders, which may change under their path."""
    folders = {at: user_path(node.path) for at, node in checkpoints(settings, "judge").items()}
    return {at: fingerprint(str(folder), None)["weights"] for at, folder in folders.items() if folder.is_dir()}


def _sources(settings: Any) -> dict[str, Any]:
    nodes = {at: node for at, node in checkpoints(settings, "judge").items() if isinstance(node, Checkpoint)}
    return {at: fingerprint(locate(node.path, f"{at}.path"), node.revision) for at, node in nodes.items()}
