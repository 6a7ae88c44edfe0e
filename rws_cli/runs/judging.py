"""Judge whole runs: each example's two completions, in both orders; verdicts are saved as they come.

Verdicts are in the judged run's folder, in judgements/<judge>-<hash>/: verdicts.jsonl, and judge.json with the judge and
the baseline. Judging again only asks about pairs without a verdict, or whose completions have changed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rws_cli.analysis.compare import by_settings, opponent, paired
from rws_cli.analysis.run import Sample
from rws_cli.analysis.verdicts import completions_hash, deciding
from rws_cli.benchmarks.base import Example
from rws_cli.config.check import check_consent, check_recorded
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


def judge_runs(folders: list[Path], settings: Any, typed: Sequence[str] = ()) -> None:
    """Judge each run against the one of the first setting that has the same seed, or else against its first run. typed: what
    the user typed, for consent.

    Raises what paired and judge_run raise.
    """
    runs = [read_run(folder) for folder in folders]
    paired(runs)
    first, *others = by_settings(runs)
    for run in (run for members in others for run in members):
        base = opponent(run, first)
        check_consent(check_recorded(read_manifest(run.folder)["config"]), typed, "benchmark.")
        judge_run(settings, run.folder, base.folder, run.samples, base.samples)


def judge_run(settings: Any, run: Path, baseline: Path, samples: dict[str, Sample], base: dict[str, Sample]) -> None:
    """Let a judge compare the completions of a run with those of a baseline. samples, base: by example.

    Raises UsageError if the judge cannot be loaded or the run's examples have changed, and RunError if the judge fails;
    its verdicts so far are kept.
    """
    config = check_recorded(read_manifest(run)["config"])
    examples = {e.id: e for e in config.benchmark.repeated()}
    pairs = {i: _pair(run, examples, base[i], samples[i]) for i in samples if i in base}
    weights = _weights(settings)
    folder = run / JUDGEMENTS / f"{settings.name}-{_key(settings, weights, baseline)}"
    folder.mkdir(parents=True, exist_ok=True)
    check_no_links(folder)
    drop_broken_line(folder / "verdicts.jsonl")
    verdicts = {(line["id"], line["order"]): line for line in read_lines(folder / "verdicts.jsonl")}
    todo = [
        (i, order)
        for i in pairs
        for order in (0, 1)
        if verdicts.get((i, order), {}).get("completions") != completions_hash(base[i], samples[i])
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
    ordered = [pairs[i] if order == 0 else pairs[i].swapped() for i, order in todo]
    try:
        for (i, order), verdict in zip(todo, judge.ask(ordered), strict=True):
            completions = completions_hash(base[i], samples[i])
            line = {"id": i, "order": order, "first": verdict.first, "reply": verdict.reply, "completions": completions}
            append_lines(folder / "verdicts.jsonl", [line])
    finally:
        write_json(folder / "judge.json", about | judge.spent())


def _pair(run: Path, examples: dict[str, Example], base: Sample, sample: Sample) -> Pair:
    example = examples.get(sample["id"])
    if example is None or example.prompt != sample["prompt"]:
        raise UsageError(f"{run} cannot be judged: example {sample['id']} has changed since the run. Restore its data.")
    histories = tuple(tuple((user, assistant) for user, assistant in s["history"]) for s in (base, sample))
    return Pair(example, (base["completion"], sample["completion"]), histories)  # type: ignore[arg-type]


def _key(settings: Any, weights: dict[str, Any], baseline: Path) -> str:
    against = recorded_hash(read_manifest(baseline))
    pinned = [deciding(asdict(settings)), against, *([weights] if weights else [])]
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]


def _weights(settings: Any) -> dict[str, Any]:
    """Fingerprints of the weights in local folders, which may change without their path changing."""
    folders = {key: user_path(node.path) for key, node in checkpoints(settings, "judge").items()}
    return {key: fingerprint(str(folder), None)["weights"] for key, folder in folders.items() if folder.is_dir()}


def _sources(settings: Any) -> dict[str, Any]:
    nodes = {key: node for key, node in checkpoints(settings, "judge").items() if isinstance(node, Checkpoint)}
    return {key: fingerprint(locate(node.path, f"{key}.path"), node.revision) for key, node in nodes.items()}
