"""What a run needs before it decodes: examples and prompts, found without weights; then the weights."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rws_cli import registry
from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.config.identity import differing_keys
from rws_cli.config.schema import Config, EntrgiGuidance, R3Review, ReplayGuidance, RewardGuidance
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.orders import PC
from rws_cli.decoding.replay import REPLAYS, Scales
from rws_cli.errors import UsageError
from rws_cli.metrics.measure import load_metrics
from rws_cli.models.base import Denoiser, Prepared
from rws_cli.models.checkpoint import checkpoints, fingerprint, locate, read_config
from rws_cli.models.compiled import compiled
from rws_cli.models.loading import pick_device
from rws_cli.rewards.base import Reward
from rws_cli.rewards.classifier import Classifier
from rws_cli.rewards.gradient import token_map
from rws_cli.runs.calibrations import facts_of, find_statistics
from rws_cli.runs.corpus import FILE, read_frequencies
from rws_cli.runs.folder import find_run, newest, read_json
from rws_cli.runs.records import read_trace


@dataclass(frozen=True)
class Task:
    """What is asked, before any weights load: examples, and by example its prompt as token ids and its turn, from 0.

    A later turn's prompt lacks the answers that come before it, until they are there.
    """

    prepared: Prepared
    benchmark: Benchmark
    examples: list[Example]
    prompts: dict[str, list[int]]
    turn: dict[str, int]


@dataclass(frozen=True)
class Parts:
    """What answers, and what scores answers; `statistics` are the reward's own, or those that rws calibrate found.

    replayed: for each example the scales that replay guidance gives it. pc: what the order of that name needs. map_V: the
    reward model's token for each of the denoiser's, where gradients of the one move the other.
    """

    denoiser: Denoiser
    reward: Reward | None
    statistics: Statistics | None
    replayed: dict[str, Scales]
    pc: PC | None
    map_V: torch.Tensor | None = None
    pieces: dict[int, str] = field(default_factory=dict)

    def piece(self, token: int) -> str:
        """What the tokenizer writes for a token alone."""
        if token not in self.pieces:
            self.pieces[token] = self.denoiser.tokenizer.decode([token])
        return self.pieces[token]


def prepare(config: Config) -> Task:
    """Everything that can be found wrong without weights: checkpoints, data, tokens, lengths. Raises UsageError."""
    registry.make("tracker", config.runtime.tracker, "runtime.tracker").check()
    prepared = config.model.prepare()
    registry.make("worker", config.runtime.backend, "runtime.backend").check(config, prepared)
    for at, node in checkpoints(config.reward, "reward").items():
        pick_device(node.device, f"{at}.device")
        read_config(locate(node.path, f"{at}.path"), node.revision, f"{at}.path")
    load_metrics(config.metric)
    examples = config.benchmark.asked()
    prompts: dict[str, list[int]] = {}
    asked: dict[str, tuple[tuple[str, str], ...]] = {}
    for example in examples:
        before = asked[example.follows] if example.follows else ()
        prompts[example.id] = prepared.encode(example.prompt, before)
        asked[example.id] = (*before, (example.prompt, ""))
    turn = {i: len(said) - 1 for i, said in asked.items()}
    native = prepared.arguments.get("config")
    limit = getattr(native, "max_position_embeddings", None) or 0
    longest = max(prompts, key=lambda i: len(prompts[i]) + turn[i] * config.sampler.gen_length)
    if 0 < limit < len(prompts[longest]) + (turn[longest] + 1) * config.sampler.gen_length:
        answers = f" for each of {turn[longest] + 1} answers" if turn[longest] else ""
        raise UsageError(
            f"Example {longest} has {len(prompts[longest])} prompt tokens; with sampler.gen_length="
            f"{config.sampler.gen_length}{answers} that is more than the model's context of {limit}."
        )
    return Task(prepared, config.benchmark, examples, prompts, turn)


def check_loadable(config: Config) -> None:
    """What `prepare` leaves to loading, found without reading a weight: whether the weights of model and rewards fit their
    classes, and whether rewards have a tokenizer and a chat template. Raises UsageError if not."""
    config.model.check()
    for at, node in checkpoints(config.reward, "reward").items():
        node.check(at)


def load(config: Config, task: Task, ranks: int = 1) -> Parts:
    """Load reward and model; ranks: processes that share the model. Raises UsageError if weights do not fit or the reward
    lacks the statistics it needs."""
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    if config.runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        for classifier in checkpoints(config.reward, "reward").values():
            classifier.batch_size = 1
    reward = config.reward.loaded(task.benchmark, config.seed) if config.reward.scores else None
    statistics = reward.normalization if reward else None
    guidance, review = config.sampler.guidance, config.sampler.review
    normalizes = None
    if isinstance(guidance, RewardGuidance) and guidance.normalize != "none":
        normalizes = f"sampler.guidance.normalize={guidance.normalize}"
    elif isinstance(review, R3Review):
        normalizes = "sampler.review.kind=r3"
    if reward and statistics is None:
        facts = facts_of(config, task.benchmark, task.examples, reward)
        statistics = find_statistics(config, facts, normalizes is not None)
    if normalizes and reward and not statistics:
        raise UsageError(
            f"{normalizes} needs the score's statistics, and "
            f"reward={config.reward.name} stores none: measure them with rws calibrate and the same model, reward and "
            "benchmark, or set reward.statistics=<a JSON file with mean, std, min, max>."
        )
    replayed = read_replay(config, task) if isinstance(guidance, ReplayGuidance) else {}
    pc = read_pc(config, task) if config.sampler.pc else None
    map_V = None
    if isinstance(guidance, EntrgiGuidance):
        assert isinstance(reward, Classifier)
        ours, theirs = task.prepared.tokenizer.get_vocab(), reward.tokenizer.get_vocab()
        map_V = token_map(ours, theirs, task.prepared.vocabulary).to(reward.model.device)
    denoiser = config.model.load(task.prepared, ranks)
    if config.runtime.compile:
        denoiser = compiled(denoiser)
    return Parts(denoiser, reward, statistics, replayed, pc, map_V)


def read_pc(config: Config, task: Task) -> PC:
    """What the order pc needs. Raises UsageError if there are no frequencies for the model's tokenizer."""
    settings = config.sampler.pc
    assert settings
    path = newest(Path(settings.frequencies or Path(task.prepared.path) / FILE))
    found = read_frequencies(path, task.prepared.tokenizer, task.prepared.vocabulary, "sampler.pc.frequencies")
    return PC(settings.decay, settings.cap, torch.tensor(found, dtype=torch.float64))


def read_replay(config: Config, task: Task) -> dict[str, Scales]:
    """The scales that a finished run recorded, as sampler.guidance.how hands them out.

    Raises UsageError if the run is not finished, scaled nothing, or decoded anything else in another way.
    """
    guidance: ReplayGuidance = config.sampler.guidance
    run = find_run(guidance.run)
    manifest = read_json(run / "manifest.json")
    at = f"sampler.guidance.run={guidance.run}"
    if manifest["status"] != "finished":
        raise UsageError(f"{at} is {manifest['status']}: finish it with rws run --resume {run}.")
    here, there = asdict(config), manifest["config"]
    for node in (here, there):
        node["sampler"] = {key: value for key, value in node["sampler"].items() if key not in ("name", "guidance")}
    groups = ("model", "benchmark", "sampler", "seed")
    if differing := differing_keys({g: there[g] for g in groups}, {g: here[g] for g in groups}):
        listed = ", ".join(f"{key}={old}" for key, (old, _) in list(differing.items())[:8])
        raise UsageError(f"{at} was made with other settings; to replay it, set {listed}.")
    recorded = {
        row["id"]: {step: r for step, r in zip(row["step"], row["scale"], strict=True) if r is not None}
        for row in read_trace(run)
    }
    if not all(recorded.get(example.id) for example in task.examples):
        raise UsageError(f"{at} recorded no scales for some examples: it must be a run of sampler=rws.")
    return REPLAYS[guidance.how](recorded, config.seed)


def sources(config: Config, task: Task, parts: Parts) -> dict[str, Any]:
    """What pins the weights of model and reward, the reward's statistics and the examples, for the manifest."""
    nodes = checkpoints(config.model, "model") | checkpoints(config.reward, "reward")
    weights = {at: fingerprint(locate(node.path, f"{at}.path"), node.revision) for at, node in nodes.items()}
    scales = hashlib.sha256(json.dumps(parts.replayed, sort_keys=True).encode()).hexdigest() if parts.replayed else None
    return weights | {
        "replayed": scales,
        "frequencies": hashlib.sha256(parts.pc.frequency_V.numpy().tobytes()).hexdigest() if parts.pc else None,
        "statistics": asdict(parts.statistics) if parts.statistics else None,
        "benchmark": benchmark_source(task.benchmark, task.examples),
    }


def benchmark_source(benchmark: Benchmark, examples: list[Example]) -> dict[str, Any]:
    """What pins the examples and their marker."""
    asked = json.dumps([[e.id, e.prompt, e.reference] for e in examples], ensure_ascii=False)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return {"version": benchmark.version, "examples": len(examples), "sha256": digest}
