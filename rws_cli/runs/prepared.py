"""What a run needs before it decodes: examples and prompts, found without weights; then the weights."""

from __future__ import annotations

import hashlib
import json
import os
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from rws_cli import registry
from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.config.schema import Config, Sampler
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import UsageError
from rws_cli.metrics.measure import load_metrics
from rws_cli.models.base import Denoiser, PreparedModel
from rws_cli.models.checkpoint import checkpoints, fingerprint, locate, read_config
from rws_cli.models.compiled import compiled
from rws_cli.models.loading import pick_device
from rws_cli.rewards.base import Reward
from rws_cli.runs.calibrations import facts_of, find_statistics


@dataclass(frozen=True)
class PreparedRun:
    """What is asked, before any weights load: examples, and by example its prompt as token ids and its turn, from 0.

    A later turn's prompt lacks the answers that come before it, until they are there.
    """

    config: Config
    model: PreparedModel
    benchmark: Benchmark
    examples: list[Example]
    prompts: dict[str, list[int]]
    turn: dict[str, int]


@dataclass(frozen=True)
class Components:
    """What answers, and what scores answers; `statistics` are the reward's own, or those that rws calibrate found.
    sampler: with what its components need of files."""

    denoiser: Denoiser
    reward: Reward | None
    statistics: Statistics | None
    sampler: Sampler
    pieces: dict[int, str] = field(default_factory=dict)

    def piece(self, token: int) -> str:
        """What the tokenizer writes for a token alone."""
        if token not in self.pieces:
            self.pieces[token] = self.denoiser.tokenizer.decode([token])
        return self.pieces[token]


def prepare(config: Config) -> PreparedRun:
    """Everything that can be found wrong without weights: checkpoints, data, tokens, lengths. Raises UsageError."""
    registry.make("tracker", config.runtime.tracker, "runtime.tracker").check()
    model = config.model.prepare()
    registry.make("worker", config.runtime.backend, "runtime.backend").check(config, model)
    for at, node in checkpoints(config.reward, "reward").items():
        pick_device(node.device, f"{at}.device")
        read_config(locate(node.path, f"{at}.path"), node.revision, f"{at}.path")
    load_metrics(config.metric)
    examples = config.benchmark.asked()
    prompts: dict[str, list[int]] = {}
    asked: dict[str, tuple[tuple[str, str], ...]] = {}
    for example in examples:
        before = asked[example.follows] if example.follows else ()
        prompts[example.id] = model.encode(example.prompt, before)
        asked[example.id] = (*before, (example.prompt, ""))
    turn = {i: len(said) - 1 for i, said in asked.items()}
    native = model.arguments.get("config")
    limit = getattr(native, "max_position_embeddings", None) or 0
    longest = max(prompts, key=lambda i: len(prompts[i]) + turn[i] * config.sampler.gen_length)
    if 0 < limit < len(prompts[longest]) + (turn[longest] + 1) * config.sampler.gen_length:
        answers = f" for each of {turn[longest] + 1} answers" if turn[longest] else ""
        raise UsageError(
            f"Example {longest} has {len(prompts[longest])} prompt tokens; with sampler.gen_length="
            f"{config.sampler.gen_length}{answers} that is more than the model's context of {limit}."
        )
    return PreparedRun(config, model, config.benchmark, examples, prompts, turn)


def check_loadable(config: Config) -> None:
    """What `prepare` leaves to loading, found without reading a weight: whether the weights of model and rewards fit their
    classes, and whether rewards have a tokenizer and a chat template. Raises UsageError if not."""
    config.model.check()
    for at, node in checkpoints(config.reward, "reward").items():
        node.check(at)


def load(config: Config, prepared: PreparedRun, ranks: int = 1) -> Components:
    """Load reward and model; ranks: processes that share the model. Raises UsageError if weights do not fit or the reward
    lacks the statistics it needs."""
    settings = config.reward
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    if config.runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        settings = deepcopy(settings)
        for classifier in checkpoints(settings, "reward").values():
            classifier.batch_size = 1
    reward = settings.loaded(prepared.benchmark, config.seed) if settings.scores else None
    statistics = reward.normalization if reward else None
    asked = [(at, part) for at, part in config.sampler.parts.items() if "statistics" in part.needs]
    if reward and statistics is None:
        facts = facts_of(config, prepared.benchmark, prepared.examples, reward)
        statistics = find_statistics(config, facts, bool(asked))
    if asked and reward and not statistics:
        at, part = asked[0]
        named = f"normalize={part.normalize}" if hasattr(part, "normalize") else f"kind={part.kind}"
        raise UsageError(
            f"sampler.{at}.{named} needs the score's statistics, and "
            f"reward={config.reward.name} stores none: measure them with rws calibrate and the same model, reward and "
            "benchmark, or set reward.statistics=<a JSON file with mean, std, min, max>."
        )
    sampler = copy(config.sampler)
    sampler.order, sampler.guidance = copy(sampler.order), copy(sampler.guidance)
    sampler.order.load(prepared)
    sampler.guidance.load(prepared, reward)
    denoiser = config.model.load(prepared.model, ranks)
    if config.runtime.compile:
        denoiser = compiled(denoiser)
    return Components(denoiser, reward, statistics, sampler)


def sources(config: Config, prepared: PreparedRun, components: Components) -> dict[str, Any]:
    """What pins the weights of model and reward, the reward's statistics and the examples, for the manifest."""
    nodes = checkpoints(config.model, "model") | checkpoints(config.reward, "reward")
    weights = {at: fingerprint(locate(node.path, f"{at}.path"), node.revision) for at, node in nodes.items()}
    return (
        weights
        | components.sampler.order.source
        | components.sampler.guidance.source
        | {
            "statistics": asdict(components.statistics) if components.statistics else None,
            "benchmark": benchmark_source(prepared.benchmark, prepared.examples),
        }
    )


def benchmark_source(benchmark: Benchmark, examples: list[Example]) -> dict[str, Any]:
    """What pins the examples and their grader."""
    asked = json.dumps([[e.id, e.prompt, e.reference] for e in examples], ensure_ascii=False)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return {"version": benchmark.version, "examples": len(examples), "sha256": digest}
