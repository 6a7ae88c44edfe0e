"""Timing of decoding for bench_speed.py and bench_gpu.py: a run's loop, and the forward passes of the loop called alone."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from speed_models import SHAPES, bandwidth, matmul_rate, seconds_of
from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.statistics import Statistics
from rws_cli.models.base import Denoiser, position_ids
from rws_cli.rewards.classifier import Classifier
from rws_cli.runs import batch_decoder, run
from rws_cli.runs.prepared import Components, PreparedRun
from rws_cli.runs.stopping import Stop
from rws_cli.workers.local import Local

VARIANTS = {
    "confidence": ["sampler=confidence"],
    "rws": ["sampler=rws", "sampler.guidance.normalize=none", "sampler.guidance.form=exponential"],
    "prefix": ["sampler=confidence", "runtime.cache=prefix"],
    "dual": ["sampler=confidence", "runtime.cache=dual"],
}
"""What is measured of rws, as overrides of rws run."""

BASELINES = {"confidence": "published", "prefix": "Fast-dLLM prefix", "dual": "Fast-dLLM dual"}
"""What each variant is compared with; without peers, caches are compared with the published procedure too."""

Procedure = Callable[["Case", list[list[int]]], list[list[int]]]
"""Another procedure: from prompts to completions."""


@dataclass(frozen=True)
class Case:
    """What is decoded. prompt: the least and most tokens of a prompt; gen, block, per_step: the completion's tokens, those
    of a block and of a step; variants: of VARIANTS; one_layer: all layers use the weights of one."""

    shape: str
    reward: str
    batch: int
    prompt: tuple[int, int]
    gen: int
    block: int
    per_step: int
    rounds: int = 2
    variants: tuple[str, ...] = tuple(VARIANTS)
    one_layer: bool = False

    @property
    def steps(self) -> int:
        return self.gen // self.per_step


@dataclass
class Timing:
    """Seconds of each round; `alone`: of the model's passes of the same round, called alone; `reward_alone`: of the reward's.
    calls: (rows, queries, keys, positions with logits) of each pass."""

    seconds: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    reward_alone: list[float] = field(default_factory=list)
    calls: list[tuple[int, int, int, int]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)


class Recorder:
    """Calls a function, and keeps copies of the arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls: list[tuple[list[Any], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(([copied(x) for x in arguments], {name: copied(x) for name, x in named.items()}))
        return self.function(*arguments, **named)

    @torch.inference_mode()
    def replay(self) -> None:
        for arguments, named in self.calls:
            self.function(*arguments, **named)


def copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


class Bench:
    """Decodes the prompts of a case in one batch."""

    def __init__(self, case: Case, denoiser: Denoiser, reward: Classifier, device: str, dtype: str) -> None:
        self.case, self.device, self.dtype, self.shape = case, device, dtype, SHAPES[case.shape]
        self.denoiser, self.reward = denoiser, reward
        self.rate = self.bandwidth = 0.0
        draw, names = random.Random(0), sorted(set(denoiser.tokenizer.get_vocab().values()))[2:]
        lengths = [draw.randint(*case.prompt) for _ in range(case.batch)]
        self.prompts = [[draw.choice(names) for _ in range(length)] for length in lengths]
        self.examples = [Example(f"{n}", denoiser.tokenizer.decode(ids), "") for n, ids in enumerate(self.prompts)]

    def measure(self, others: dict[str, Procedure]) -> dict[str, Timing]:
        """The timings of all variants and of other procedures, one after the other in each round."""
        timings = {name: Timing() for name in (*others, *self.case.variants)}
        for number in range(self.case.rounds):
            self.rate = max(self.rate, matmul_rate(self.device, self.dtype))
            self.bandwidth = max(self.bandwidth, bandwidth(self.device))
            for name, timing in timings.items():
                if name in others:
                    self.time_other(others[name], timing)
                else:
                    self.time(name, timing)
                print(f"  round {number + 1}, {name}: {timing.seconds[-1]:.2f} s", flush=True)
        return timings

    def time_other(self, procedure: Procedure, timing: Timing) -> None:
        def work() -> None:
            timing.tokens = procedure(self.case, self.prompts)

        timing.seconds.append(seconds_of(work, self.device))

    def time(self, name: str, timing: Timing) -> None:
        """Decode as rws run would, from the first batch to the records on disk; then repeat the passes alone."""
        config, passes = self.config(name), Recorder(self.denoiser.forward)
        texts, read = Recorder(self.reward._read), self.reward._read
        self.reward.forget()
        self.reward._read = texts  # type: ignore[method-assign]
        try:
            with tempfile.TemporaryDirectory() as folder:
                timing.seconds.append(
                    seconds_of(lambda: self.decode(config, passes, Path(folder), timing), self.device)
                )
        finally:
            self.reward._read = read  # type: ignore[method-assign]
        timing.alone.append(seconds_of(passes.replay, self.device))
        if texts.calls:
            self.reward.forget()
            timing.reward_alone.append(seconds_of(texts.replay, self.device))
        timing.calls = [size_of(arguments, named) for arguments, named in passes.calls]

    def decode(self, config: Config, forward: Any, folder: Path, timing: Timing) -> None:
        denoiser = replace(self.denoiser, forward=forward)
        prepared = self.prepared(config, denoiser)
        reward = self.reward if config.sampler.guidance.kind == "rws" else None
        components = Components(denoiser, reward, Statistics(0.0, 1.0, -1.0, 1.0), config.sampler)
        samples: list[dict[str, Any]] = []
        here = Local(kind="local")
        here.decoder = batch_decoder.BatchDecoder(config, prepared, components)
        run.decode_examples(config, prepared, here, folder, samples, Quiet(), Stop())  # type: ignore[arg-type]
        timing.tokens = [sample["tokens"] for sample in sorted(samples, key=lambda sample: int(sample["id"]))]

    def prepared(self, config: Config, denoiser: Denoiser) -> PreparedRun:
        ids = [example.id for example in self.examples]
        benchmark: Any = SimpleNamespace(grade_sample=lambda example, sample: None)
        prompts, turns = dict(zip(ids, self.prompts, strict=True)), dict.fromkeys(ids, 0)
        return PreparedRun(config, denoiser, benchmark, self.examples, prompts, turns)

    def config(self, name: str) -> Config:
        c = self.case
        return compose(
            *VARIANTS[name], f"sampler.gen_length={c.gen}", f"sampler.block_length={c.block}",
            f"sampler.tokens_per_step={c.per_step}", f"runtime.batch_size={c.batch}",
            f"model.dtype={self.dtype}",
        )  # fmt: skip

    def roofline(self, timing: Timing) -> dict[str, float]:
        """FLOPs and bytes of a step, and the seconds that all steps need at least: at the rate of a large product for FLOPs,
        or at that of reading the weights and the cached keys and values. Rates are the best of those measured in each round."""
        shape, rate, read = self.shape, self.rate, self.bandwidth
        width = getattr(torch, self.dtype).itemsize
        flops = [
            shape.flops(rows, queries, keys) + 2.0 * count * shape.head for rows, queries, keys, count in timing.calls
        ]
        kept = 2 * shape.layers * shape.channels * shape.kv_heads // shape.heads
        sizes = [
            width * (shape.attention + shape.mlp + shape.head + rows * (keys - queries) * kept)
            for rows, queries, keys, _ in timing.calls
        ]
        return {
            "flops_per_second": rate,
            "bytes_per_second": read,
            "flops_per_step": statistics.mean(flops),
            "bytes_per_step": statistics.mean(sizes),
            "seconds": sum(max(f / rate, b / read) for f, b in zip(flops, sizes, strict=True)),
            "matmul_share": sum(flops) / statistics.median(timing.alone) / rate,
        }

    def shares(self) -> dict[str, float]:
        """The shares of a pass over all positions, with logits of half of the completion: the head, the products of the
        attention, its scores and sums, and the MLP."""
        shape, c = self.shape, self.case
        length = sum(c.prompt) / 2 + c.gen
        flops = {
            "head": shape.head * min(c.gen, c.block) / 2,
            "attention": length * (shape.attention + 2 * length * shape.channels * shape.layers),
            "MLP": length * shape.mlp,
        }
        return {part: value / sum(flops.values()) for part, value in flops.items()}


class Quiet:
    """Progress that prints nothing."""

    def step(self, committed: int) -> None: ...

    def finished(self, samples: list[dict[str, Any]]) -> None: ...

    def notify(self, line: str) -> None: ...

    def failed(self, failures: dict[str, str]) -> None:
        raise SystemExit(next(iter(failures.values())))


def size_of(arguments: list[Any], named: dict[str, Any]) -> tuple[int, int, int, int]:
    """Rows, queries, keys and positions with logits of a pass."""
    (rows, queries), attention, wanted = arguments[0].shape, arguments[1], arguments[2]
    return rows, queries, attention.shape[-1], int(named.get("count") or wanted.sum())


def published(denoiser: Denoiser, logits_of: Callable[..., Tensor]) -> Procedure:
    """LLaDA's own decoding at temperature 0, as its generate.py computes it since commit f51cb17 (2025-06-02): each step
    takes the logits of all positions, and probabilities in the model's dtype. Prompts are padded on the left."""

    @torch.inference_mode()
    def decode(case: Case, prompts: list[list[int]]) -> list[list[int]]:
        x, seen = padded(denoiser, prompts, case.gen)
        start = x.shape[1] - case.gen
        for end in range(start + case.block, x.shape[1] + 1, case.block):
            for _ in range(case.block // case.per_step):
                logits = logits_of(x, seen)
                token = logits.argmax(-1)
                p = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
                p[:, end:] = -torch.inf
                p = torch.where(x == denoiser.mask_id, p, -torch.inf)
                for row in range(len(x)):
                    chosen = p[row].topk(case.per_step).indices
                    x[row, chosen] = token[row, chosen]
        return x[:, start:].tolist()

    return decode


def padded(denoiser: Denoiser, prompts: list[list[int]], gen: int) -> tuple[Tensor, Tensor]:
    """Prompts, padded on the left, with masked completions (B, L); and a mask (B, L), 0 at padding and 1 elsewhere."""
    longest = max(map(len, prompts))
    rows = [[denoiser.pad_id] * (longest - len(ids)) + ids + [denoiser.mask_id] * gen for ids in prompts]
    seen = [[0] * (longest - len(ids)) + [1] * (len(ids) + gen) for ids in prompts]
    return torch.tensor(rows, device=denoiser.device), torch.tensor(seen, device=denoiser.device)


def all_logits(denoiser: Denoiser) -> Callable[..., Tensor]:
    """The logits (B, L, V) of all positions, for the published procedure."""

    def logits_of(x: Tensor, seen: Tensor) -> Tensor:
        logits = denoiser.model(input_ids=x, attention_mask=seen, position_ids=position_ids(seen)).logits
        return torch.cat([logits[:, :1], logits[:, :-1]], 1) if denoiser.shift else logits

    return logits_of


def result(bench: Bench, timings: dict[str, Timing]) -> dict[str, Any]:
    """The figures of a case. Of several ratios, one per round, the median counts."""
    committed = bench.case.batch * bench.case.gen
    variants = {}
    for name, timing in timings.items():
        entry: dict[str, Any] = {"seconds": timing.seconds}
        entry["tokens_per_second"] = committed / statistics.median(timing.seconds)
        if timing.alone:
            entry["alone"] = timing.alone
            entry["over_alone"] = ratios(timing.seconds, timing.alone)
            entry["roofline"] = bench.roofline(timing)
            entry["against"] = baseline = BASELINES.get(name, "published")
            if baseline not in timings:
                entry["against"] = baseline = "published"
            entry["times_as_fast"] = ratios(timings[baseline].seconds, timing.seconds)
            entry["same_tokens"] = same(timings[baseline].tokens, timing.tokens)
        if timing.reward_alone:
            both = [a + b for a, b in zip(timings["confidence"].seconds, timing.reward_alone, strict=True)]
            entry["reward_alone"] = timing.reward_alone
            entry["over_confidence_and_reward"] = ratios(timing.seconds, both)
        variants[name] = entry
    return {"case": asdict(bench.case), "shares": bench.shares(), "variants": variants}


def ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def same(a: list[list[int]], b: list[list[int]]) -> float:
    """The share of equal tokens."""
    pairs = [pair for rows in zip(a, b, strict=True) for pair in zip(*rows, strict=True)]
    return sum(x == y for x, y in pairs) / len(pairs)


def table(name: str, figures: dict[str, Any]) -> str:
    case = figures["case"]
    shares = ", ".join(f"{part} {share:.0%}" for part, share in figures["shares"].items())
    roofline = figures["variants"]["confidence"]["roofline"]
    rates = f"{roofline['flops_per_second'] / 1e9:,.0f} GFLOP/s, {roofline['bytes_per_second'] / 1e9:,.1f} GB/s"
    lines = [
        f"{name}: prompts of {case['prompt'][0]} to {case['prompt'][1]} tokens, {case['gen']} tokens in blocks of "
        f"{case['block']}, {case['per_step']} per step. Multiplications: {shares}. Machine: {rates}"
    ]
    head = f"{'':18}{'seconds':>9}{'tokens/s':>10}{'× alone':>9}{'× roofline':>12}{'GFLOP/step':>12}{'GB/step':>9}"
    lines.append(head + "   times as fast as")
    for variant, entry in figures["variants"].items():
        line = f"{variant:18}{statistics.median(entry['seconds']):9.2f}{entry['tokens_per_second']:10.2f}"
        if "alone" in entry:
            line += f"{statistics.median(entry['over_alone']):9.3f}"
            roofline = entry["roofline"]
            line += f"{statistics.median(entry['seconds']) / roofline['seconds']:12.2f}"
            line += f"{roofline['flops_per_step'] / 1e9:12.1f}{roofline['bytes_per_step'] / 1e9:9.2f}"
            line += f"   {statistics.median(entry['times_as_fast']):.2f} {entry['against']}"
            if entry["against"] != "published" or variant == "confidence":
                line += f", {entry['same_tokens']:.1%} of tokens the same"
        if "reward_alone" in entry:
            line += f"; {statistics.median(entry['over_confidence_and_reward']):.3f} × confidence + reward alone"
        lines.append(line)
    return "\n".join(lines)
