"""One run, from a checked configuration to a finished run folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rws_cli.benchmarks import load_benchmark
from rws_cli.benchmarks.base import Benchmark, Example, answered
from rws_cli.config import classifiers, differing_keys
from rws_cli.corpus import FILE, read_frequencies
from rws_cli.decoding.canvas import new_canvas
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.orders import PC
from rws_cli.decoding.record import Cost, RowTrace
from rws_cli.decoding.replay import REPLAYS, Scales
from rws_cli.decoding.search import search
from rws_cli.errors import RunError, UsageError
from rws_cli.metrics.measure import load_metrics, measure
from rws_cli.metrics.order import order_statistics
from rws_cli.metrics.steering import steering
from rws_cli.metrics.summary import peak_memory, summarize
from rws_cli.models import Denoiser, Prepared, load_model, prepare_model
from rws_cli.models.base import pick_device
from rws_cli.models.cache import BlockCache
from rws_cli.models.checkpoint import fingerprint, locate, read_config
from rws_cli.models.compiled import compiled
from rws_cli.report.progress import Progress
from rws_cli.rewards import load_reward
from rws_cli.rewards.base import Reward, as_statistics, read_statistics
from rws_cli.rewards.classifier import Classifier
from rws_cli.rewards.gradient import Mover, token_map
from rws_cli.rewards.scorer import RowScorer, renderer
from rws_cli.runs.folder import find_run, read_json, write_json
from rws_cli.runs.manifest import Request, open_run, recorded, resumable
from rws_cli.runs.records import append_samples, join_trace, read_samples, read_trace, replace_samples, write_trace_part
from rws_cli.schema import Checkpoint, Config, EntrgiGuidance, Metric, R3Review, ReplayGuidance, RewardGuidance

MOST_ROWS, LOGIT_BYTES = 50, 2 << 30
"""For LLaDA-8B and 256 tokens that is 16 rows. What does not fit after all is halved; see `answer`."""


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


def run(config: Config, resolved: dict[str, Any], request: Request) -> Path:
    """Decode the benchmark, mark it, and write the run folder; returns it.

    Raises UsageError before any weights load if a checkpoint is missing or the resumed run had another configuration;
    RunError if the run fails, with all finished examples kept and the manifest saying why.
    """
    started = time.perf_counter()
    stopped = resumable(request.resume, resolved) if request.resume else None
    task = prepare(config)
    parts = load(config, task)
    folder, manifest = open_run(config, resolved, request, stopped, sources(config, task, parts))
    samples = read_samples(folder)
    setup_seconds = time.perf_counter() - started

    with recorded(folder, manifest):
        with Progress(len(task.examples), samples, folder / "run.log") as progress:
            answer(config, task, parts, folder, samples, progress)
        place = {example.id: n for n, example in enumerate(task.examples)}
        samples.sort(key=lambda sample: place[sample["id"]])
        replace_samples(folder, samples)
        join_trace(folder, list(place))
        metrics = measured(folder, config.metric, task.examples, samples)
        metrics["cost"] |= {
            "setup_seconds": setup_seconds,
            "run_seconds": time.perf_counter() - started,
            "peak_memory_bytes": peak_memory(),
        }
        write_json(folder / "metrics.json", metrics)
    return folder


def answer(
    config: Config, task: Task, parts: Parts, folder: Path, samples: list[dict[str, Any]], progress: Progress
) -> None:
    """Decode the examples that are not among `samples`, a batch at a time; `samples` and the run folder grow.

    Where memory does not suffice for a batch, it is decoded again with half as many rows in a forward pass, and so are
    those that follow. Raises RunError if it does not suffice for a single row.
    """
    from accelerate.utils import find_executable_batch_size

    rows = rows_at_once(config, task)

    def halve() -> int:
        nonlocal rows
        progress.say(
            f"out of memory with {rows} rows in a forward pass" + (f": on with {rows // 2}" if rows > 1 else "")
        )
        rows //= 2
        return rows

    @find_executable_batch_size(starting_batch_size=rows, reduce_batch_size_fn=halve)
    def go_on(rows: int) -> None:
        for batch in _batches(task, samples, max(1, rows // config.sampler.particles)):
            new = decode_batch(config, task, parts, batch, folder, progress, rows)
            append_samples(folder, new)
            samples.extend(new)
            progress.finished(new)

    try:
        go_on()
    except RuntimeError as error:
        if rows:
            raise
        raise RunError(
            "Out of memory with a single row: use a smaller sampler.gen_length, model.dtype=bfloat16, a smaller model, or "
            "model.device_map=auto over several devices."
        ) from error


def measured(
    folder: Path, metrics: dict[str, Metric], examples: list[Example], samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """The summary of samples, with what metrics say of them; that of each goes into samples.jsonl."""
    by_id = {example.id: example for example in examples}
    each, whole = measure(metrics, [by_id[sample["id"]] for sample in samples], samples)
    for sample, measures in zip(samples, each, strict=True):
        sample["measures"] |= measures
    if metrics:
        replace_samples(folder, samples)
    return summarize(samples) | {"measures": whole}


def prepare(config: Config) -> Task:
    """Everything that can be found wrong without weights: checkpoints, data, tokens, lengths. Raises UsageError."""
    prepared = prepare_model(config.model)
    for at, node in classifiers(config.reward).items():
        pick_device(node.device, f"{at}.device")
        read_config(locate(node.path, f"{at}.path"), node.revision, f"{at}.path")
    benchmark = load_benchmark(config.benchmark)
    load_metrics(config.metric)
    examples = answered(benchmark.examples(), config.benchmark.answers)
    prompts: dict[str, list[int]] = {}
    asked: dict[str, tuple[tuple[str, str], ...]] = {}
    for example in examples:
        before = asked[example.follows] if example.follows else ()
        prompts[example.id] = prepared.encode(example.prompt, before)
        asked[example.id] = (*before, (example.prompt, ""))
    turn = {i: len(said) - 1 for i, said in asked.items()}
    native = prepared.arguments.get("config")
    limit = getattr(native, "max_position_embeddings", None)
    longest = max(prompts, key=lambda i: len(prompts[i]) + turn[i] * config.sampler.gen_length)
    if limit and len(prompts[longest]) + (turn[longest] + 1) * config.sampler.gen_length > limit:
        answers = f" for each of {turn[longest] + 1} answers" if turn[longest] else ""
        raise UsageError(
            f"Example {longest} has {len(prompts[longest])} prompt tokens; with sampler.gen_length="
            f"{config.sampler.gen_length}{answers} that is more than the model's context of {limit}."
        )
    return Task(prepared, benchmark, examples, prompts, turn)


def rows_at_once(config: Config, task: Task) -> int:
    """The rows of one forward pass. A search whose particles of one prompt are more than that takes several passes."""
    return config.runtime.batch_size or automatic_batch(config, task)


def automatic_batch(config: Config, task: Task) -> int:
    """Rows to begin with: at most MOST_ROWS, and at most as many as have LOGIT_BYTES of logits if all is masked."""
    row_bytes = 4 * task.prepared.vocabulary * config.sampler.gen_length
    return max(1, min(MOST_ROWS, LOGIT_BYTES // row_bytes))


def load(config: Config, task: Task) -> Parts:
    """Load reward and model. Raises UsageError if weights do not fit or the reward lacks the statistics it needs."""
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    reward = load_reward(config.reward, task.benchmark, config.seed)
    statistics = reward.statistics if reward else None
    if reward and statistics is None and (found := calibrated_file(config)).is_file():
        statistics = as_statistics(read_statistics(found, "reward"))
    guidance, review = config.sampler.guidance, config.sampler.review
    normalizes = None
    if isinstance(guidance, RewardGuidance) and guidance.normalize != "none":
        normalizes = f"sampler.guidance.normalize={guidance.normalize}"
    elif isinstance(review, R3Review):
        normalizes = "sampler.review.kind=r3"
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
    denoiser = load_model(config.model, task.prepared)
    if config.runtime.compile:
        denoiser = compiled(denoiser)
    return Parts(denoiser, reward, statistics, replayed, pc, map_V)


def read_pc(config: Config, task: Task) -> PC:
    """What the order pc needs. Raises UsageError if there are no frequencies for the model's tokenizer."""
    settings = config.sampler.pc
    assert settings
    path = Path(settings.frequencies or Path(task.prepared.path) / FILE)
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


def calibrated_file(config: Config) -> Path:
    """Where rws calibrate leaves the statistics of a reward for a model and a benchmark."""
    parent = Path(config.output) / "calibration" / config.reward.name / f"{config.model.name}-{config.benchmark.name}"
    return parent / "latest" / "normalization.json"


def decode_batch(
    config: Config, task: Task, parts: Parts, batch: list[Example], folder: Path, progress: Progress, most_rows: int
) -> list[dict[str, Any]]:
    """Decode and mark some examples; writes their traces and returns their samples. most_rows: in one forward pass."""
    sampler, denoiser, ids = config.sampler, parts.denoiser, [example.id for example in batch]
    rows = [example for example in batch for _ in range(sampler.particles)]
    canvas = new_canvas(
        [task.prepared.encode(e.prompt, e.history) if e.history else task.prompts[e.id] for e in rows],
        [f"{i} particle {n}" if n else i for i in ids for n in range(sampler.particles)],
        sampler.gen_length,
        denoiser.mask_id,
        denoiser.pad_id,
        config.seed,
        denoiser.device,
    )
    costs = [Cost() for _ in rows]
    scorer, mover = None, None
    if parts.reward:
        # Without statistics only normalize=none gets here, which reads none of these.
        statistics = parts.statistics or Statistics(0.0, 1.0, 0.0, 1.0)
        scorer = RowScorer(parts.reward, renderer(denoiser, sampler), rows, costs, statistics)
    if isinstance(sampler.guidance, EntrgiGuidance):
        assert isinstance(parts.reward, Classifier)
        assert parts.map_V is not None
        mover = Mover(sampler.guidance, parts.reward, parts.map_V, denoiser.eos_ids, rows, costs, sampler.temperature)
    replayed = [parts.replayed[i] for i in ids] if parts.replayed else []
    kept, cache = config.runtime, None
    if kept.cache != "none":
        cache = BlockCache(denoiser, kept.cache, kept.cache_refresh, len(rows))
    found = search(
        denoiser, canvas, sampler, scorer, costs, on_step=progress.step, replayed=replayed, mover=mover, pc=parts.pc,
        most_rows=most_rows, cache=cache,
    )  # fmt: skip

    answers_BG = canvas.response_BG[found.rows]
    rewards: list[float | None] = [None] * len(batch)
    if scorer:
        # Scoring what came out is measuring, not decoding: nobody is charged for it.
        scorer.costs = [Cost() for _ in rows]
        rewards = list(scorer(found.rows, answers_BG, [1.0] * len(batch), -1))
    write_trace_part(folder, [{"id": i, **asdict(trace)} for i, trace in zip(ids, found.traces, strict=True)])
    totals = [sum(costs[n : n + sampler.particles], Cost()) for n in range(0, len(rows), sampler.particles)]
    told = zip(batch, answers_BG.tolist(), rewards, found.traces, totals, found.scores, strict=True)
    return [_sample(config, task, parts, *one) for one in told]


def _sample(
    config: Config,
    task: Task,
    parts: Parts,
    example: Example,
    response: list[int],
    reward: float | None,
    trace: RowTrace,
    cost: Cost,
    particles: list[float],
) -> dict[str, Any]:
    """A line of samples.jsonl. `mark` is None where nothing is right or wrong. `order` leaves end tokens out; `order_with_eos`
    counts them. Where tokens were masked again, orders are those of the last commits. particles: a search's scores."""
    answer = parts.denoiser.text(response)
    last = sorted({position: n for n, position in enumerate(trace.position)}.values())
    position, step = [trace.position[n] for n in last], [trace.step[n] for n in last]
    content = [trace.token[n] not in parts.denoiser.eos_ids for n in last]
    block_length, mark = config.sampler.block_length, task.benchmark.mark(example, answer)
    return {
        "id": example.id,
        "question": example.question or example.id,
        "history": example.history,
        "prompt": example.prompt,
        "answer": answer,
        "reference": example.reference,
        "mark": asdict(mark) if mark else None,
        "reward": reward,
        "measures": {},
        "order": order_statistics(position, step, block_length, content),
        "order_with_eos": order_statistics(position, step, block_length),
        "steering": steering(trace),
        "tokens": response,
        "committed": len(trace.step),
        "masked_again": len(trace.step) - len(last),
        "particles": particles,
        "cost": asdict(cost),
    }


def sources(config: Config, task: Task, parts: Parts) -> dict[str, Any]:
    """What pins the weights of model and reward, the reward's statistics and the examples, for the manifest."""
    nodes: dict[str, Checkpoint] = {"model": config.model, **classifiers(config.reward)}
    weights = {at: fingerprint(locate(node.path, f"{at}.path"), node.revision) for at, node in nodes.items()}
    asked = json.dumps([[e.id, e.prompt, e.reference] for e in task.examples], ensure_ascii=False)
    version, digest = task.benchmark.version, hashlib.sha256(asked.encode()).hexdigest()
    scales = hashlib.sha256(json.dumps(parts.replayed, sort_keys=True).encode()).hexdigest() if parts.replayed else None
    return weights | {
        "replayed": scales,
        "frequencies": hashlib.sha256(parts.pc.frequency_V.numpy().tobytes()).hexdigest() if parts.pc else None,
        "statistics": asdict(parts.statistics) if parts.statistics else None,
        "benchmark": {"version": version, "examples": len(task.examples), "sha256": digest},
    }


def _batches(task: Task, samples: list[dict[str, Any]], size: int) -> Iterator[list[Example]]:
    """The examples that are not among `samples`, first turns first, and the longest prompts before shorter ones: little
    is padded, and what does not fit into memory shows early. `samples` grows as they are answered."""
    done = {sample["id"] for sample in samples}
    for turn in range(max(task.turn.values()) + 1):
        todo = [e for e in task.examples if task.turn[e.id] == turn and e.id not in done]
        todo.sort(key=lambda e: -len(task.prompts[e.id]))
        said = {s["id"]: (*map(tuple, s["history"]), (s["prompt"], s["answer"])) for s in samples}
        for start in range(0, len(todo), size):
            yield [replace(e, history=said[e.follows]) if e.follows else e for e in todo[start : start + size]]
