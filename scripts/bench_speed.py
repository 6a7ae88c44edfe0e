"""Measure how fast decoding is: against LLaDA's published procedure, and against what the hardware allows.

    python scripts/bench_speed.py                                     # the default of make bench
    python scripts/bench_speed.py --shape llada-8b --device cuda --dtype bfloat16 --prompt 256 256 --gen 256
    python scripts/bench_speed.py --shape tiny --batch 1 64

Weights and prompts are random, the prompts of mixed lengths. Everything that is compared decodes the same prompts, one
after the other in every round (A B C A B C), and ratios are taken within a round. Where time goes, and what the
hardware would need at least, come from one more decoding, in which the components are timed. Prints a table, writes JSON,
and fails if exact decoding in float32 gives other tokens than the published procedure.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import torch
from speed_models import Shape, bandwidth, build, matmul_rate, synchronize
from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.statistics import Statistics
from rws_cli.models.base import Denoiser
from rws_cli.rewards.classifier import Classifier
from rws_cli.rewards.scorer import Renderer
from rws_cli.runs import batch_decoder, run
from rws_cli.runs.prepared import Components, PreparedRun
from rws_cli.runs.stopping import Stop
from rws_cli.workers.local import Local

RWS = ["sampler=rws", "sampler.guidance.normalize=none", "sampler.guidance.form=exponential"]
VARIANTS = {
    "confidence": ["sampler=confidence"],
    "rws": RWS,
    "rws_every_4": [*RWS, "sampler.guidance.reward_every=4"],
    "prefix": ["sampler=confidence", "runtime.cache=prefix"],
    "dual": ["sampler=confidence", "runtime.cache=dual"],
}
"""What is measured besides "published", as overrides of rws run."""
AGAINST = dict.fromkeys(VARIANTS, "confidence") | {"confidence": "published"}
"""What each is divided by."""


@torch.inference_mode()
def published(
    denoiser: Denoiser, prompts: list[list[int]], gen: int, block: int, per_step: int, batch: int, shift: int
) -> list[list[int]]:
    """LLaDA's own decoding at temperature 0, as before its commit f51cb17 (2025-06-02): every step takes logits of all positions, and their float64 probabilities;
    prompts are padded on the left, in the order in which they come."""
    answers = []
    for begin in range(0, len(prompts), batch):
        group = prompts[begin : begin + batch]
        start = max(map(len, group))
        x = torch.full((len(group), start + gen), denoiser.mask_id)
        seen = torch.ones_like(x)
        for row, prompt in enumerate(group):
            x[row, : start - len(prompt)], seen[row, : start - len(prompt)] = denoiser.pad_id, 0
            x[row, start - len(prompt) : start] = torch.tensor(prompt)
        x, seen = x.to(denoiser.device), seen.to(denoiser.device)
        position = (seen.cumsum(-1) - 1).clamp(min=0)
        for end in range(start + block, start + gen + 1, block):
            for _ in range(block // per_step):
                logits = denoiser.model(input_ids=x, attention_mask=seen, position_ids=position).logits
                if shift:
                    logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)
                logits[..., denoiser.mask_id] = -torch.inf
                token = logits.argmax(-1)
                p = torch.softmax(logits.double(), -1).gather(-1, token[..., None])[..., 0]
                p[:, end:] = -torch.inf
                p = torch.where(x == denoiser.mask_id, p, -torch.inf)
                for row in range(len(x)):
                    chosen = p[row].topk(per_step).indices
                    x[row, chosen] = token[row, chosen]
        answers += x[:, start:].tolist()
    return answers


class Quiet:
    """Progress that prints nothing."""

    def step(self, committed: int) -> None: ...

    def finished(self, samples: list[dict[str, Any]]) -> None: ...

    def notify(self, line: str) -> None: ...


@contextmanager
def peak_memory(device: str, result: dict[str, float]) -> Iterator[None]:
    """Peak memory in bytes above the memory in use before; weights are not counted."""
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield
        result["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        return
    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        result["peak_bytes"] = most - before


class Bench:
    """A benchmark of one batch size; `decode` returns completion tokens, seconds and the sums of the cost."""

    def __init__(
        self, args: argparse.Namespace, denoiser: Denoiser, reward: Classifier, shape: Shape, batch: int
    ) -> None:
        self.args, self.denoiser, self.reward, self.shape, self.batch = args, denoiser, reward, shape, batch
        draw, names = random.Random(0), sorted(set(denoiser.tokenizer.get_vocab().values()))[2:]
        lengths = [draw.randint(*args.prompt) for _ in range(2 * batch)]
        self.prompts = [[draw.choice(names) for _ in range(length)] for length in lengths]
        self.examples = [Example(f"{n}", denoiser.tokenizer.decode(ids), "") for n, ids in enumerate(self.prompts)]

    def decode(self, name: str) -> dict[str, Any]:
        args = self.args
        result: dict[str, float] = {}
        config = None if name == "published" else self.config(VARIANTS[name])
        synchronize(args.device)
        with tempfile.TemporaryDirectory() as folder, peak_memory(args.device, result):
            started = time.perf_counter()
            if config is None:
                tokens = published(
                    self.denoiser, self.prompts, args.gen, args.block, args.per_step, self.batch, self.shape.shift
                )
                passes = args.gen // args.per_step * len(self.prompts)
            else:
                samples = self.answer(config, Path(folder))
                tokens = [sample["tokens"] for sample in sorted(samples, key=lambda s: int(s["id"]))]
                passes = sum(sample["cost"]["mdm_passes"] for sample in samples)
            synchronize(args.device)
            seconds = time.perf_counter() - started
        return {"tokens": tokens, "seconds": seconds, "passes": passes, **result}

    def config(self, overrides: list[str]) -> Config:
        a = self.args
        return compose(
            *overrides, f"sampler.gen_length={a.gen}", f"sampler.block_length={a.block}",
            f"sampler.tokens_per_step={a.per_step}", f"runtime.batch_size={self.batch}",
        )  # fmt: skip

    def answer(self, config: Config, folder: Path) -> list[dict[str, Any]]:
        """As rws run would, from the first batch to the records on disk."""
        ids = [example.id for example in self.examples]
        benchmark: Any = SimpleNamespace(grade=lambda example, answer: None)
        prompts, turns = dict(zip(ids, self.prompts, strict=True)), dict.fromkeys(ids, 0)
        prepared = PreparedRun(config, self.denoiser, benchmark, self.examples, prompts, turns)
        reward = self.reward if config.sampler.guidance.kind == "rws" else None
        components = Components(self.denoiser, reward, Statistics(0.0, 1.0, -1.0, 1.0), config.sampler)
        samples: list[dict[str, Any]] = []
        progress: Any = Quiet()
        here = Local(kind="local")
        here.decoder = batch_decoder.BatchDecoder(config, prepared, components)
        run.decode_examples(config, prepared, here, folder, samples, progress, Stop())
        return samples

    def split(self, name: str) -> dict[str, Any]:
        """Seconds of each part, and the least that the hardware needs for the passes that were made."""
        seconds: defaultdict[str, float] = defaultdict(float)
        calls: list[tuple[int, int, int]] = []
        open_rows: list[int] = []

        def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def measured(*arguments: Any, **named: Any) -> Any:
                synchronize(self.args.device)
                started = time.perf_counter()
                result = function(*arguments, **named)
                synchronize(self.args.device)
                seconds[part] += time.perf_counter() - started
                return result

            return measured

        model, tokenizer = self.denoiser.model, self.reward.tokenizer
        backbone, head = timed("backbone", model.model.forward), timed("head", model.lm_head.forward)

        def seen_backbone(*arguments: Any, **named: Any) -> Any:
            calls.append((*named["input_ids"].shape, named["input_ids"].shape[1]))
            return backbone(*arguments, **named)

        def seen_head(states_NE: Tensor) -> Any:
            open_rows.append(len(states_NE))
            return head(states_NE)

        with ExitStack() as stack:
            for owner, attribute, replacement in (
                (model.model, "forward", seen_backbone),
                (model.lm_head, "forward", seen_head),
                (self.reward, "score", timed("reward", self.reward.score)),
                (self.reward, "tokenizer", Timed(tokenizer, timed)),
                (Renderer, "__call__", timed("tokenization", Renderer.__call__)),
                (run, "append_lines", timed("records", run.append_lines)),
                (run, "write_trace_part", timed("records", run.write_trace_part)),
                (batch_decoder, "_sample", timed("records", batch_decoder._sample)),
            ):
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            total = self.decode(name)["seconds"]
        seconds["reward"] -= seconds["reward's tokenizer"]
        seconds["tokenization"] += seconds.pop("reward's tokenizer", 0.0)
        seconds["selection and loop"] = total - sum(seconds.values())
        return {
            "seconds": dict(seconds) | {"total": total},
            "floor": {"backbone": self.floor(calls), "head": self.head_floor(open_rows)},
            "rate": sum(self.flops(*call) for call in calls) / seconds["backbone"],
        }

    def flops(self, rows: int, length: int, keys: int) -> float:
        """Of a backbone pass: two a weight and token, and four a pair of positions and channel."""
        s = self.shape
        return rows * length * (2.0 * s.backbone + 4.0 * keys * s.width * s.layers)

    def floor(self, calls: list[tuple[int, int, int]]) -> float:
        """Seconds at the measured rates: a pass takes at least its FLOPs, and at least the reading of its weights."""
        rate, read = matmul_rate(self.args.device, self.args.dtype), self.width * self.shape.backbone
        return sum(max(self.flops(*call) / rate, read / bandwidth(self.args.device)) for call in calls)

    def head_floor(self, open_rows: list[int]) -> float:
        rate, weights = matmul_rate(self.args.device, self.args.dtype), self.shape.width * self.shape.vocabulary
        read = self.width * weights / bandwidth(self.args.device)
        return sum(max(2.0 * n * weights / rate, read) for n in open_rows)

    @property
    def width(self) -> int:
        """Bytes a weight."""
        return 4 if self.args.dtype == "float32" else 2


class Timed:
    """A tokenizer whose calls are timed."""

    def __init__(self, tokenizer: Any, timed: Any) -> None:
        self.tokenizer = tokenizer
        self.call = timed("reward's tokenizer", tokenizer)
        self.apply_chat_template = timed("reward's tokenizer", tokenizer.apply_chat_template)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.call(*arguments, **named)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def measure(bench: Bench, names: list[str], rounds: int) -> dict[str, Any]:
    """All rounds of one batch size; the first decoding of each is a warm-up at one token's cost and not counted."""
    decodings: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            decodings[name].append(bench.decode(name))
            print(f"  round {number + 1}, {name}: {decodings[name][-1]['seconds']:.2f} s", flush=True)
    committed = sum(map(len, decodings[names[0]][0]["tokens"]))
    result: dict[str, Any] = {"batch": bench.batch, "examples": len(bench.prompts), "variants": {}}
    for name in names:
        seconds = [one["seconds"] for one in decodings[name]]
        entry: dict[str, Any] = {
            "seconds": seconds,
            "tokens_per_second": committed / statistics.median(seconds),
            "passes_per_second": decodings[name][0]["passes"] / statistics.median(seconds),
            "peak_bytes": max(one["peak_bytes"] for one in decodings[name]),
        }
        other = AGAINST.get(name)
        if other in names:
            pairs = zip(decodings[other], decodings[name], strict=True)
            entry["against"], entry["ratios"] = other, [a["seconds"] / b["seconds"] for a, b in pairs]
            agree = zip(decodings[other][0]["tokens"], decodings[name][0]["tokens"], strict=True)
            entry["same_tokens"] = sum(x == y for a, b in agree for x, y in zip(a, b, strict=True)) / committed
        if name != "published":
            entry["split"] = bench.split(name)
        result["variants"][name] = entry
    return result


def table(result: dict[str, Any]) -> str:
    lines = [f"batch {result['batch']}, {result['examples']} prompts"]
    for name, entry in result["variants"].items():
        line = f"  {name:12} {entry['tokens_per_second']:8.1f} tokens/s {entry['passes_per_second']:8.2f} passes/s"
        line += f" {entry['peak_bytes'] / 2**20:7,.0f} MiB"
        if "ratios" in entry:
            ratios = ", ".join(f"{ratio:.2f}" for ratio in entry["ratios"])
            line += f"   {statistics.median(entry['ratios']):.2f} × {entry['against']} ({ratios})"
            line += f", {entry['same_tokens']:.1%} of tokens the same"
        lines.append(line)
        if split := entry.get("split"):
            total = split["seconds"]["total"]
            shares = ", ".join(f"{part} {s / total:.1%}" for part, s in split["seconds"].items() if part != "total")
            floor = sum(split["floor"].values())
            lines.append(f"{'':15}{shares}; {total / floor:.2f} × the hardware's floor of {floor:.2f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="scaled", choices=("tiny", "small", "scaled", "llada-8b", "dream-7b"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--prompt", type=int, nargs=2, default=[32, 256], metavar=("LEAST", "MOST"), help="in tokens")
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--per-step", type=int, default=8, help="tokens committed per step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=["published", *VARIANTS], choices=("published", *VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_speed.json"))
    args = parser.parse_args()
    denoiser, reward, shape = build(args.shape, args.device, args.dtype)
    rate, read = matmul_rate(args.device, args.dtype), bandwidth(args.device)
    where = torch.cuda.get_device_name() if args.device != "cpu" else f"CPU, {torch.get_num_threads()} threads"
    weights = sum(p.numel() for p in reward.model.parameters())
    print(f"{args.shape}: {shape.weights / 1e6:,.0f} M weights, reward {weights / 1e6:,.0f} M; {where}, {args.dtype}: "
          f"{rate / 1e12:.2f} TFLOP/s, {read / 1e9:.1f} GB/s", flush=True)  # fmt: skip
    report: dict[str, Any] = {
        "settings": {**vars(args), "out": str(args.out)}, "torch": torch.__version__, "device": where,
        "machine": platform.platform(), "flops_per_second": rate, "bytes_per_second": read, "results": [],
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Bench(args, denoiser, reward, shape, 1).decode("confidence")  # what is made at first use is made
    for batch in args.batch:
        report["results"].append(measure(Bench(args, denoiser, reward, shape, batch), args.variants, args.rounds))
        print(table(report["results"][-1]), flush=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    exact = [
        r["variants"]["confidence"].get("same_tokens", 1) for r in report["results"] if "confidence" in r["variants"]
    ]
    if args.dtype == "float32" and min(exact, default=1) < 1:
        raise SystemExit("Exact decoding gave other tokens than the published procedure.")


if __name__ == "__main__":
    main()
