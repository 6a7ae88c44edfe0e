"""Prepare a run: examples and prompts first, without weights; then load the weights."""

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
from rws_cli.likelihood.score import Pair
from rws_cli.metrics.measure import load_metrics
from rws_cli.models.adapter import adapter_fingerprint
from rws_cli.models.base import Denoiser, PreparedModel
from rws_cli.models.canvas import canvas_tokens
from rws_cli.models.checkpoint import Checkpoint, checkpoints, fingerprint, locate, read_config
from rws_cli.models.compiled import compiled
from rws_cli.models.loading import pick_device
from rws_cli.rewards.base import Reward
from rws_cli.runs.calibrations import facts_of, find_statistics
from rws_cli.runs.choices import encode_choices


@dataclass(frozen=True)
class PreparedRun:
    """A run before weights are loaded. prompts, turn: example id → token ids of its prompt, and its turn, from 0. canvases:
    example id → token ids of its canvas, with masks, for examples that have one.

    A later turn's prompt here lacks the completions of the turns before it. pairs: of examples with choices, each choice
    after its prompt; `prompts` then has the longest of them.
    """

    config: Config
    model: PreparedModel
    benchmark: Benchmark
    examples: list[Example]
    prompts: dict[str, list[int]]
    turn: dict[str, int]
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    canvases: dict[str, list[int]] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """What the user should know before decoding: doubts about the model's checkpoint and the benchmark's references, and
        a reward that nothing reads."""
        lines = [self.model.warning, self.benchmark.doubtful_references(self.examples)]
        if len(self.pairs) == len(self.examples) and self.config.reward.scores:
            lines.append(
                f"warning: choices are scored by likelihood, without sampler={self.config.sampler.name} and "
                f"reward={self.config.reward.name}: sampler=confidence reward=none loads no reward"
            )
        return [line for line in lines if line]


@dataclass(frozen=True)
class Components:
    """What decodes and scores completions. statistics: the reward's own, or those that rws calibrate measured.
    sampler: with the files that its parts need loaded."""

    denoiser: Denoiser
    reward: Reward | None
    statistics: Statistics | None
    sampler: Sampler
    pieces: dict[int, str] = field(default_factory=dict)

    def piece(self, token: int) -> str:
        """The text of a single token."""
        if token not in self.pieces:
            self.pieces[token] = self.denoiser.tokenizer.decode([token])
        return self.pieces[token]


def prepare(config: Config) -> PreparedRun:
    """Check everything that does not need weights: checkpoints, data, tokens, lengths. Raises UsageError."""
    registry.make("tracker", config.runtime.tracker, "runtime.tracker").check()
    model = config.model.prepare()
    registry.make("worker", config.runtime.backend, "runtime.backend").check(config, model)
    for key, node in reward_models(config).items():
        pick_device(node.device, f"{key}.device")
        read_config(locate(node.path, f"{key}.path"), node.revision, f"{key}.path")
    load_metrics(config.metric)
    examples = config.benchmark.repeated()
    prompts: dict[str, list[int]] = {}
    pairs: dict[str, list[Pair]] = {}
    turns: dict[str, tuple[tuple[str, str], ...]] = {}
    turn: dict[str, int] = {}
    for example in examples:
        before = turns[example.follows] if example.follows else example.history
        if example.choices:
            pairs[example.id] = encode_choices(model, example)
            prompts[example.id] = max((pair.context + pair.continuation for pair in pairs[example.id]), key=len)
        else:
            prompts[example.id] = model.encode(example.prompt, before, **example.context)
        turns[example.id] = (*before, (example.prompt, ""))
        turn[example.id] = turn[example.follows] + 1 if example.follows else 0
    canvases = {e.id: canvas_of(e, model, config.sampler) for e in examples if e.canvas}
    limit = model.context_length
    scored = max(pairs, key=lambda i: len(prompts[i]), default=None)
    if scored is not None and 0 < limit < len(prompts[scored]):
        raise UsageError(
            f"Example {scored} has {len(prompts[scored])} tokens with its longest choice; that exceeds the model's context of "
            f"{limit}."
        )
    length = config.sampler.gen_length
    columns = {
        e.id: len(prompts[e.id]) + turn[e.id] * length + min(e.length or length, length)
        for e in examples
        if e.id not in pairs
    }
    longest = max(columns, key=columns.__getitem__, default=None)
    if longest is not None and 0 < limit < columns[longest]:
        each_turn = f" for each of {turn[longest] + 1} turns" if turn[longest] else ""
        raise UsageError(
            f"Example {longest} has {len(prompts[longest])} prompt tokens; with sampler.gen_length={length}{each_turn} that "
            f"exceeds the model's context of {limit}."
        )
    return PreparedRun(config, model, config.benchmark, examples, prompts, turn, pairs, canvases)


def canvas_of(example: Example, model: PreparedModel, sampler: Sampler) -> list[int]:
    """The token ids of an example's canvas. Raises UsageError if it is longer than gen_length or has no mask, or if the
    schedule inserts tokens."""
    gen_length, schedule = sampler.gen_length, sampler.schedule
    if schedule.grows:
        raise UsageError(
            f"sampler.schedule.kind={schedule.kind} chooses the length of a completion, but example {example.id} has a canvas: "
            "choose another schedule."
        )
    tokens = canvas_tokens(example.canvas, example.reference, model.tokenizer, model.mask_id)
    if len(tokens) > gen_length:
        raise UsageError(
            f"The canvas of example {example.id} has {len(tokens)} tokens: set sampler.gen_length={len(tokens)} or more, "
            f"not {gen_length}."
        )
    if model.mask_id not in tokens:
        raise UsageError(f"The canvas of example {example.id} has no mask: there is nothing to decode.")
    return tokens


def check_loadable(config: Config) -> None:
    """Check what `prepare` leaves to `load`, without reading weights: that the weights of model and rewards fit their
    classes, and that rewards have a tokenizer and a chat template. Raises UsageError if not."""
    config.model.check()
    for key, node in reward_models(config).items():
        node.check(key)


def reward_models(config: Config) -> dict[str, Checkpoint]:
    """The checkpoints of rewards, by key; not those of judges."""
    return {key: node for key, node in checkpoints(config.reward, "reward").items() if isinstance(node, Checkpoint)}


def load(config: Config, prepared: PreparedRun, ranks: int = 1) -> Components:
    """Load reward and model. ranks: processes that share the model. Raises UsageError if weights do not fit their class, or
    statistics that guidance needs are missing."""
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
    sampler, statistics = load_sampler(config, prepared, reward)
    denoiser = config.model.load(prepared.model, ranks)
    if config.runtime.compile:
        denoiser = compiled(denoiser)
    return Components(denoiser, reward, statistics, sampler)


def load_sampler(config: Config, prepared: PreparedRun, reward: Reward | None) -> tuple[Sampler, Statistics | None]:
    """A sampler with the files that its parts need loaded, and the reward's statistics. Raises UsageError if guidance needs
    statistics and there are none."""
    statistics = reward.normalization if reward else None
    need_statistics = [(key, part) for key, part in config.sampler.parts.items() if "statistics" in part.needs]
    if reward and statistics is None:
        facts = facts_of(config, prepared.benchmark, prepared.examples, reward)
        statistics = find_statistics(config, facts, bool(need_statistics))
    if need_statistics and reward and not statistics and len(prepared.pairs) < len(prepared.examples):
        key, part = need_statistics[0]
        named = f"normalize={part.normalize}" if hasattr(part, "normalize") else f"kind={part.kind}"
        raise UsageError(
            f"sampler.{key}.{named} needs statistics of the reward's scores, and "
            f"reward={config.reward.name} has none: measure them with rws calibrate and the same model, reward and "
            "benchmark, or set reward.statistics=<a JSON file with mean, std, min, max>."
        )
    sampler = copy(config.sampler)
    sampler.order, sampler.guidance, sampler.search = map(copy, (sampler.order, sampler.guidance, sampler.search))
    sampler.order.load(prepared)
    sampler.guidance.load(prepared, reward)
    return sampler, statistics


def sources(config: Config, prepared: PreparedRun, components: Components) -> dict[str, Any]:
    """What identifies the weights of model and reward, the files that parts read, the reward's statistics and the examples, for
    the manifest."""
    nodes = checkpoints(config.model, "model") | reward_models(config)
    weights = {key: fingerprint(locate(node.path, f"{key}.path"), node.revision) for key, node in nodes.items()}
    if (adapter := config.model.adapter) is not None:
        weights["model.adapter"] = adapter_fingerprint(adapter)
    return (
        weights
        | components.sampler.order.source
        | components.sampler.guidance.source
        | (components.reward.source if components.reward else {})
        | {
            "statistics": asdict(components.statistics) if components.statistics else None,
            "benchmark": benchmark_source(prepared.benchmark, prepared.examples),
        }
    )


def benchmark_source(benchmark: Benchmark, examples: list[Example]) -> dict[str, Any]:
    """What identifies the examples and their grader."""
    rows = [
        [e.id, e.prompt, e.reference]
        + [[e.choices, e.contexts]] * bool(e.choices)
        + [[e.history, e.system, e.prefix]] * bool(not e.follows and (e.history or e.system or e.prefix))
        + [e.canvas] * bool(e.canvas)
        for e in examples
    ]
    content = json.dumps(rows, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"version": benchmark.version, "examples": len(examples), "sha256": digest}
