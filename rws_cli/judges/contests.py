"""Whole runs before a judge: every example's two answers, in both orders, and the verdicts kept as they come.

Verdicts lie with the run that is judged, in judgements/<judge>-<hash>/: verdicts.jsonl, and judge.json with what judged
it against what. Judging again asks only what has no verdict yet, or other answers than it had. Two judges are the same
if all that decides a verdict is the same, settings and weights, whatever they are called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rws_cli.benchmarks import load_benchmark
from rws_cli.benchmarks.base import Example, answered
from rws_cli.config import check, classifiers, differing_keys
from rws_cli.errors import RunError, UsageError
from rws_cli.judges import load_judge
from rws_cli.judges.base import Contest, Judge
from rws_cli.models.checkpoint import fingerprint, locate
from rws_cli.paths import user_path
from rws_cli.runs.folder import check_no_links, read_json, write_json
from rws_cli.runs.manifest import now
from rws_cli.runs.records import drop_broken_line, read_lines
from rws_cli.schema import CausalJudge, RewardJudge

FOLDER = "judgements"
OPERATIONAL = (
    "batch_size", "device", "retries", "timeout_seconds", "parallel", "requests_per_minute", "cache", "max_dollars",
    "dollars_per_million_in", "dollars_per_million_out",
)  # fmt: skip
"""Settings that change no verdict."""

Sample = dict[str, Any]
Verdicts = dict[str, tuple[float | None, float | None]]
"""Example → how much the judged run's answer was preferred (1, 0.5, 0; None: unreadable), shown second and first."""


def judge_run(settings: Any, run: Path, baseline: Path, samples: dict[str, Sample], base: dict[str, Sample]) -> None:
    """Put the answers of a run and a baseline (by example) to the judge that the settings name.

    Raises UsageError if the judge cannot be had or the examples are no longer those of the run, RunError if it gives
    up; its verdicts until then are kept.
    """
    config = check(OmegaConf.create(read_json(run / "manifest.json")["config"]))
    benchmark = load_benchmark(config.benchmark)
    examples = {e.id: e for e in answered(benchmark.examples(), config.benchmark.answers)}
    contests = {i: _contest(run, examples, base[i], samples[i]) for i in samples if i in base}
    weights = _weights(settings)
    folder = run / FOLDER / f"{settings.name}-{_key(settings, weights, baseline)}"
    folder.mkdir(parents=True, exist_ok=True)
    check_no_links(folder)
    drop_broken_line(folder / "verdicts.jsonl")
    known = {(line["id"], line["order"]): line for line in read_lines(folder / "verdicts.jsonl")}
    todo = [
        (i, order)
        for i in contests
        for order in (0, 1)
        if known.get((i, order), {}).get("answers") != answers_hash(base[i], samples[i])
    ]
    if not todo:
        return
    judge = load_judge(settings, benchmark)
    about = {
        "judge": asdict(settings),
        "against": {"config_hash": read_json(baseline / "manifest.json")["config_hash"], "run": baseline.name},
        "at": now(),
        "weights": weights,
        "sources": _sources(settings),
    }
    write_json(folder / "judge.json", about)
    shown = [contests[i] if order == 0 else contests[i].swapped() for i, order in todo]
    try:
        with (folder / "verdicts.jsonl").open("a", encoding="utf-8") as file:
            for (i, order), verdict in zip(todo, judge.ask(shown), strict=True):
                line = {
                    "id": i,
                    "order": order,
                    "first": verdict.first,
                    "said": verdict.said,
                    "answers": answers_hash(base[i], samples[i]),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
    finally:
        write_json(folder / "judge.json", about | _spent(judge))


def read_verdicts(
    run: Path, base_hash: str, samples: dict[str, Sample], base: dict[str, Sample]
) -> dict[str, Verdicts]:
    """By judge (see `identity_of`), the examples of a run that were judged in both orders against a run with that
    configuration hash. Raises RunError for a file that rws judge did not write."""
    sides: dict[str, dict[str, dict[int, float | None]]] = {}
    for about in sorted((run / FOLDER).glob("*/judge.json")):
        stored = read_json(about)
        try:
            if stored["against"]["config_hash"] != base_hash:
                continue
            judged = sides.setdefault(identity_of(stored["judge"], stored.get("weights") or {}), {})
            for line in read_lines(about.parent / "verdicts.jsonl"):
                i, order, first = line["id"], line["order"], line["first"]
                if i in samples and i in base and line["answers"] == answers_hash(base[i], samples[i]):
                    judged.setdefault(i, {})[order] = first if order or first is None else 1 - first
        except (KeyError, TypeError) as error:
            raise RunError(f"{about.parent} does not hold what rws judge writes: remove it, or judge again.") from error
    return {
        judge: {i: (by[0], by[1]) for i, by in judged.items() if 0 in by and 1 in by} for judge, judged in sides.items()
    }


def identity_of(judge: dict[str, Any], weights: dict[str, Any]) -> str:
    """All that decides a judge's verdicts: its settings and weights, as JSON."""
    return json.dumps(_decisive(judge) | ({"weights": weights} if weights else {}), sort_keys=True)


def judge_labels(identities: Sequence[str]) -> dict[str, str]:
    """A label for each judge: its name, and where others have the same name the settings in which it differs from them.
    Long values, a template or weights, are shown as a hash."""
    judges = {identity: json.loads(identity) for identity in identities}
    labels = {}
    for identity, judge in judges.items():
        namesakes = [other for other in judges.values() if other is not judge and other["name"] == judge["name"]]
        differing = {key for other in namesakes for key in differing_keys(judge, other)}
        keys = sorted({"weights" if key.startswith("weights") else key for key in differing})
        details = ", ".join(f"{key}={_short(_at(judge, key))}" for key in keys)
        labels[identity] = f"{judge['name']} ({details})" if details else judge["name"]
    return labels


def _at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"#{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def answers_hash(base: Sample, sample: Sample) -> str:
    """What pins the two answers, and the turns before them, that a verdict is about."""
    shown = [[s["history"], s["prompt"], s["answer"]] for s in (base, sample)]
    return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode()).hexdigest()[:16]


def _contest(run: Path, examples: dict[str, Example], base: Sample, sample: Sample) -> Contest:
    example = examples.get(sample["id"])
    if example is None or example.prompt != sample["prompt"]:
        raise UsageError(f"{run} cannot be judged: example {sample['id']} is not what it was.")
    histories = tuple(tuple((user, said) for user, said in s["history"]) for s in (base, sample))
    return Contest(example, (base["answer"], sample["answer"]), histories)  # type: ignore[arg-type]


def _key(settings: Any, weights: dict[str, Any], baseline: Path) -> str:
    against = read_json(baseline / "manifest.json")["config_hash"]
    decisive = [_decisive(asdict(settings)), against, *([weights] if weights else [])]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]


def _decisive(node: Any) -> Any:
    """Settings without those that change no verdict."""
    if not isinstance(node, dict):
        return node
    return {key: _decisive(value) for key, value in node.items() if key not in OPERATIONAL}


def _checkpoints(settings: Any) -> dict[str, Any]:
    """The settings of a judge's checkpoints, by key."""
    if isinstance(settings, RewardJudge):
        return dict(classifiers(settings.reward, "judge.reward"))
    return {"judge": settings} if isinstance(settings, CausalJudge) else {}


def _weights(settings: Any) -> dict[str, Any]:
    """What pins the weights in local folders, which may change under their path."""
    folders = {at: user_path(node.path) for at, node in _checkpoints(settings).items()}
    return {at: fingerprint(str(folder), None)["weights"] for at, folder in folders.items() if folder.is_dir()}


def _sources(settings: Any) -> dict[str, Any]:
    nodes = classifiers(settings.reward, "judge.reward") if isinstance(settings, RewardJudge) else {}
    return {at: fingerprint(locate(node.path, f"{at}.path"), node.revision) for at, node in nodes.items()}


def _spent(judge: Judge) -> dict[str, Any]:
    """Tokens and dollars that an endpoint has cost in this sitting."""
    tokens: dict[str, int] | None = getattr(judge, "tokens", None)
    dollars: Callable[[int, int], float | None] | None = getattr(judge, "dollars", None)
    if tokens is None or dollars is None:
        return {}
    return {"spent": {"tokens": tokens, "dollars": dollars(tokens["in"], tokens["out"])}}
