"""One run, from a checked configuration to a finished run folder."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rws_cli.benchmarks import load_benchmark
from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.config import ClassifierReward, Config, RewardGuidance, config_hash, differing_keys, identity
from rws_cli.errors import UsageError
from rws_cli.metrics.order import order_statistics
from rws_cli.metrics.summary import summarize
from rws_cli.report.progress import Progress
from rws_cli.runs.folder import claim_version, point_latest, read_json, write_json
from rws_cli.runs.manifest import new_manifest, now
from rws_cli.runs.records import append_samples, drop_broken_line, join_trace, read_samples, write_trace_part


@dataclass(frozen=True)
class Request:
    """What the command line asked for: overrides and command as typed; where to run, or which run to go on with."""

    overrides: list[str]
    command: str
    folder: Path | None = None
    resume: Path | None = None


def run(config: Config, resolved: dict[str, Any], request: Request) -> Path:
    """Decode the benchmark, mark it, and write the run folder; returns it.

    Raises UsageError before any weights load if a checkpoint is missing or the resumed run had another configuration;
    RunError if the run fails, with all finished examples kept and the manifest saying why.
    """
    started = time.perf_counter()
    preflight(config)
    manifest = _manifest_to_resume(request.resume, resolved) if request.resume else None
    import torch

    from rws_cli.models import load_model
    from rws_cli.models.checkpoint import fingerprint, locate
    from rws_cli.rewards import load_reward

    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    benchmark = load_benchmark(config.benchmark)
    examples = benchmark.examples()
    reward = load_reward(config.reward, benchmark, config.seed)
    guidance = config.sampler.guidance
    if isinstance(guidance, RewardGuidance) and guidance.normalize != "none" and reward and not reward.statistics:
        raise UsageError(
            f"sampler.guidance.normalize={guidance.normalize} needs the score's statistics, and reward={config.reward.name} "
            "stores none: set reward.statistics=<a JSON file with mean, std, min, max>, or normalize=none."
        )
    denoiser = load_model(config.model)
    prompts = {example.id: denoiser.encode(example.prompt) for example in examples}
    _check_context(denoiser.model, prompts, config.sampler.gen_length)

    if manifest is None:
        manifest = new_manifest(resolved, request.overrides, request.command)
        manifest["checkpoints"]["model"] = fingerprint(locate(config.model.path, "model.path"), config.model.revision)
        if isinstance(config.reward, ClassifierReward):
            path = locate(config.reward.path, "reward.path")
            manifest["checkpoints"]["reward"] = fingerprint(path, config.reward.revision)
        manifest["benchmark"] = {"name": benchmark.name, "version": benchmark.version}
        parent = Path(config.output) / config.benchmark.name / f"{config.model.name}-{config.sampler.name}"
        folder = request.folder or claim_version(parent)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        assert request.resume
        folder = request.resume
        drop_broken_line(folder)
        manifest.update(status="running", error=None, resumed=[*manifest["resumed"], now()])
    write_json(folder / "manifest.json", manifest)
    if request.folder is None and request.resume is None:
        point_latest(folder)

    samples = read_samples(folder)
    done = {sample["id"] for sample in samples}
    todo = [example for example in examples if example.id not in done]
    setup_seconds = time.perf_counter() - started
    try:
        with Progress(len(examples), samples, folder / "run.log") as progress:
            for batch in _batches(todo, config.runtime.batch_size):
                new = decode_batch(config, benchmark, denoiser, reward, batch, prompts, folder, progress)
                append_samples(folder, new)
                samples += new
                progress.finished(new)
        join_trace(folder, [sample["id"] for sample in samples])
        metrics = summarize(samples)
        metrics["cost"]["setup_seconds"] = setup_seconds
        metrics["cost"]["run_seconds"] = time.perf_counter() - started
        metrics["cost"]["peak_memory_bytes"] = peak_memory()
        write_json(folder / "metrics.json", metrics)
        manifest.update(status="finished", finished=now())
    except KeyboardInterrupt:
        manifest.update(status="interrupted", finished=now(), error="interrupted by the user")
        raise
    except BaseException as error:
        manifest.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
        raise
    finally:
        write_json(folder / "manifest.json", manifest)
    return folder


def decode_batch(
    config: Config,
    benchmark: Benchmark,
    denoiser: Any,
    reward: Any,
    batch: list[Example],
    prompts: dict[str, list[int]],
    folder: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Decode and mark some examples; writes their traces and returns their samples."""
    from rws_cli.decoding.canvas import new_canvas
    from rws_cli.decoding.guidance import Statistics
    from rws_cli.decoding.loop import Cost, decode
    from rws_cli.rewards.scorer import RowScorer

    sampler, ids = config.sampler, [example.id for example in batch]
    canvas = new_canvas(
        [prompts[i] for i in ids],
        ids,
        sampler.gen_length,
        denoiser.mask_id,
        denoiser.pad_id,
        config.seed,
        denoiser.device,
    )
    costs = [Cost() for _ in batch]
    scorer = None
    if reward:
        masks = "keep" if getattr(sampler.guidance, "fill", "") == "keep" else "drop"
        statistics = reward.statistics or Statistics(0.0, 1.0, 0.0, 1.0)
        scorer = RowScorer(reward, denoiser, batch, costs, statistics, masks)
    traces = decode(denoiser, canvas, sampler, scorer, costs, progress.step)
    responses = canvas.response_BG.tolist()
    rewards: list[float | None] = [None] * len(batch)
    if scorer:
        # Scoring what came out is measuring, not decoding: nobody is charged for it.
        scorer.costs = [Cost() for _ in batch]
        rewards = list(scorer(list(range(len(batch))), canvas.response_BG, [1.0] * len(batch), -1))

    samples = []
    for example, response, score, trace, cost in zip(batch, responses, rewards, traces, costs, strict=True):
        answer = denoiser.text(response)
        content = [token not in denoiser.eos_ids for token in trace.token]
        orders = {
            "order": order_statistics(trace.position, trace.step, sampler.block_length, content),
            "order_with_eos": order_statistics(trace.position, trace.step, sampler.block_length),
        }
        samples.append(
            {
                "id": example.id,
                "prompt": example.prompt,
                "answer": answer,
                "reference": example.reference,
                "mark": asdict(benchmark.mark(example, answer)),
                "reward": score,
                **orders,
                "tokens": response,
                "committed": len(trace.step),
                "cost": asdict(cost),
            }
        )
    write_trace_part(folder, [{"id": i, **asdict(trace)} for i, trace in zip(ids, traces, strict=True)])
    return samples


def preflight(config: Config) -> None:
    """Find the checkpoints, without loading weights. Raises UsageError naming the one that is missing."""
    from rws_cli.models.checkpoint import locate, read_config

    for key, node in (("model", config.model), ("reward", config.reward)):
        if path := getattr(node, "path", None):
            read_config(locate(path, f"{key}.path"), node.revision, f"{key}.path")


def plan(config: Config) -> dict[str, Any]:
    """What a run would do and cost at most, found without loading weights.

    Raises UsageError as a run would. Tokens count prompt and response, as the run's own cost does.
    """
    from transformers import PreTrainedTokenizerFast

    from rws_cli.models.checkpoint import locate, read_config, weight_count

    preflight(config)
    path = locate(config.model.path, "model.path")
    read_config(path, config.model.revision, "model.path")
    sampler, examples = config.sampler, load_benchmark(config.benchmark).examples()
    steps = sampler.blocks * min(sampler.steps_per_block, sampler.block_length)
    passes = steps * (2 if sampler.cfg_scale > 0 else 1)
    try:
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path, revision=config.model.revision)
        prompt_tokens = sum(len(tokenizer(example.prompt).input_ids) for example in examples)
    except Exception:  # a tokenizer of another kind: the plan does without prompt lengths
        prompt_tokens = None
    weights = weight_count(path, config.model.revision)
    tokens = None if prompt_tokens is None else passes * (prompt_tokens + len(examples) * sampler.gen_length)
    guided = isinstance(sampler.guidance, RewardGuidance)
    calls = len(examples) * -(-steps // sampler.guidance.every) if guided else 0
    return {
        "examples": len(examples),
        "steps per example": steps,
        "MDM passes, at most": passes * len(examples),
        "reward calls, at most": calls,
        "tokens through the MDM, at most": tokens,
        "MDM weights": weights,
        "MDM FLOPs, about": None if tokens is None or weights is None else 2 * weights * tokens,
    }


def peak_memory() -> int:
    """The most memory this process has held, in bytes: the GPU's where one was used, else resident memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _manifest_to_resume(folder: Path, resolved: dict[str, Any]) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    if manifest["config_hash"] != config_hash(resolved):
        differing = differing_keys(identity(manifest["config"]), identity(resolved))
        listed = ", ".join(f"{key} ({old} there, {new} here)" for key, (old, new) in list(differing.items())[:8])
        raise UsageError(f"{folder} was made with another configuration and cannot be resumed with this one: {listed}.")
    return manifest


def _check_context(model: Any, prompts: dict[str, list[int]], gen_length: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(prompts, key=lambda i: len(prompts[i]))
    if limit and len(prompts[longest]) + gen_length > limit:
        raise UsageError(
            f"Example {longest} has {len(prompts[longest])} prompt tokens; with sampler.gen_length={gen_length} that is "
            f"more than the model's context of {limit}."
        )


def _batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]
