"""Small random checkpoints in the real file formats, and a fake model whose logits are a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForSequenceClassification, Qwen3Config, Qwen3ForSequenceClassification

from rws_cli import registry
from rws_cli.config.schema import Sampler
from rws_cli.decoding.batch import Batch, Prompt, new_batch, prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Cost, RowTrace
from rws_cli.models.base import Model
from rws_cli.rewards.classifier import Classifier

SHARED = Path(__file__).parents[2] / "shared"


def make_sampler(gen_length: int = 8, **settings: Any) -> Sampler:
    """A sampler with plain defaults; settings override."""
    values: dict[str, Any] = {
        "name": "test",
        "order": "confidence",
        "gen_length": gen_length,
        "block_length": gen_length,
        "steps": None,
        "tokens_per_step": None,
        "temperature": 0.0,
        "top_p": 1.0,
        "cfg_scale": 0.0,
        "confidence": "raw",
        "ties": "leftmost",
        "eos": "none",
        "guidance": part("guidance", "none"),
        "order_temperature": 0.0,
        "schedule": part("schedule", "fixed"),
        "remasking": part("remasking", "none"),
        "search": part("search", "none"),
    }
    values |= settings
    if isinstance(values["order"], str):
        values["order"] = part("order", values["order"])
    return Sampler(**values)


def part(role: str, kind: str, **settings: Any) -> Any:
    """A part with its defaults; settings override."""
    return registry.load(role, kind, role)(kind=kind, **settings)


@dataclass
class Canvas:
    """Prompts to decode in one batch; completion_BG is what came of all rows, batch where they stand in the end."""

    prompts: list[Prompt]
    gen_length: int
    mask_id: int
    batch: Any = None

    @property
    def completion_BG(self) -> Tensor:
        return self.batch.completion_BG


@dataclass
class Found:
    """By question the row whose answer was chosen, its trace, and the final score of each particle."""

    rows: list[int]
    traces: list[RowTrace]
    scores: list[list[float]]


def new_canvas(
    prompts: list[list[int]],
    example_ids: list[str],
    gen_length: int,
    mask_id: int,
    pad_id: int = 0,
    seed: int = 0,
    device: Any = "cpu",
) -> Canvas:
    rows = [prompt_of(ids, seed, example) for ids, example in zip(prompts, example_ids, strict=True)]
    return Canvas(rows, gen_length, mask_id)


def new_rows(
    prompts: list[list[int]], example_ids: list[str], gen_length: int, mask_id: int, pad_id: int, block_length: int
) -> Batch:
    """A batch with all answers masked, for tests of forward passes."""
    batch = new_batch(len(prompts), max(map(len, prompts)), gen_length, mask_id, pad_id, "cpu")
    rows = [prompt_of(ids, 0, example) for ids, example in zip(prompts, example_ids, strict=True)]
    batch.enter(dict(enumerate(rows)), pad_id, block_length)
    return batch


class Scored:
    """A reward for tests: `score(rows, tokens, filled, step)` gives a score for each row; costs are not counted."""

    def __init__(self, score: Any, statistics: Any, costs: list[Cost]) -> None:
        self.score, self.statistics, self.costs = score, statistics, costs
        self.examples = getattr(score, "examples", [])
        self.last: dict[int, tuple[str, float]] = {}

    def __call__(self, asked: dict[int, tuple[list[int], float, int]]) -> dict[int, float]:
        if not asked:
            return {}
        rows, steps = list(asked), {step for _, _, step in asked.values()}
        found: dict[int, float] = {}
        for step in sorted(steps):
            some = [row for row in rows if asked[row][2] == step]
            tokens = torch.tensor([asked[row][0] for row in some])
            found |= dict(zip(some, self.score(some, tokens, [asked[row][1] for row in some], step), strict=True))
        self.last |= {row: ("", score) for row, score in found.items()}
        return found

    def copy_rows(self, ancestors: list[int]) -> None:
        self.last = {row: self.last[a] for row, a in enumerate(ancestors) if a in self.last}

    def compared(self, answers: dict[int, list[int]], together: int) -> None:
        """By their scores."""

    def final(self, answers: dict[int, list[int]]) -> list[float]:
        return list(self({row: (ids, 1.0, -1) for row, ids in answers.items()}).values())


def search(
    denoiser: Any,
    canvas: Canvas,
    sampler: Sampler,
    scorer: Any = None,
    costs: list[Cost] | None = None,
    on_step: Any = None,
    on_enter: Any = None,
    **options: Any,
) -> Found:
    """Decode all prompts of a canvas, sampler.search.particles for each question; leaves the costs of all rows in `costs`."""
    decoder = Decoder(denoiser, canvas.prompts, sampler, **options)
    if scorer is not None:
        decoder.scorer = Scored(scorer, scorer.statistics, decoder.costs)
    decoder.on_step, decoder.on_enter = on_step or decoder.on_step, on_enter or decoder.on_enter
    found = sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)
    canvas.batch = decoder.batch
    if costs is not None:
        costs[:] = decoder.costs
    rows = [one.number * decoder.particles + one.particle for one in found]
    return Found(rows, [one.trace for one in found], [one.scores for one in found])


def decode(*arguments: Any, **options: Any) -> list[RowTrace]:
    """Decode all prompts of a canvas: a trace for each."""
    return search(*arguments, **options).traces


def make_settings(kind: str, path: str | Path, **settings: Any) -> Model:
    values = {"name": "test", "kind": kind, "path": str(path), "dtype": "float32", "device": "cpu"}
    return registry.load("model", kind, "model.kind")(**(values | settings))


class FakeDenoiser:
    """Logits are a smooth random function of the tokens attended to: rows cannot see each other or their padding."""

    def __init__(
        self, vocabulary: int = 12, mask_id: int = 11, eos_ids: tuple[int, ...] = (10,), seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mask_id, self.eos_ids, self.vocabulary, self.dtype = mask_id, eos_ids, vocabulary, torch.float64
        self.embedding = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64)
        self.place = torch.randn(256, 16, generator=generator, dtype=torch.float64)
        self.head = torch.randn(16, vocabulary, generator=generator, dtype=torch.float64) * 3
        self.head[:, mask_id] = 0
        self.calls: list[Tensor] = []

    def full_logits(self, tokens_BL: Tensor, attention_BL: Tensor) -> Tensor:
        """(B, L, V), float64; the mask token's logit is far below all others."""
        position = (attention_BL.cumsum(-1) - 1).clamp(min=0)
        states = self.embedding[tokens_BL] + self.place[position]
        kernel = torch.exp(-0.2 * (position[:, :, None] - position[:, None, :]).abs().double())
        kernel = kernel * attention_BL[:, None, :]
        mixed = torch.tanh((kernel @ states) / kernel.sum(-1, keepdim=True) * 2)
        logits = mixed @ self.head
        logits[..., self.mask_id] = -40.0
        return logits

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, count: int | None = None) -> Tensor:
        assert count in (None, int(wanted_BL.sum()))
        self.calls.append(tokens_BL.clone())
        return self.full_logits(tokens_BL, attention_BL)[wanted_BL]

    def attended(self, tokens_BL: Tensor, attention_BL: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """Attention by likeness of tokens, and by distance."""
        position = (attention_BL.cumsum(-1) - 1).clamp(min=0)
        states = self.embedding[tokens_BL] + self.place[position]
        scores = states @ states.transpose(1, 2) / (8 * layers)
        scores -= 0.1 * (position[:, :, None] - position[:, None, :]).abs()
        weights = scores.masked_fill(~attention_BL[:, None, :], -torch.inf).softmax(-1).nan_to_num(0.0)
        return self.logits(tokens_BL, attention_BL, torch.ones_like(attention_BL)), weights

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, place_BK: Tensor, exists_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A shadow is a mask at a position of the block that sees all but that position, and all shadows."""
        position = (attention_BL.cumsum(-1) - 1).clamp(min=0)
        states = self.embedding[tokens_BL] + self.place[position]
        own = self.embedding[self.mask_id] + self.place[position]
        block_BL = torch.zeros_like(attention_BL).scatter(1, place_BK, exists_BK)
        kernel = torch.exp(-0.2 * (position[:, :, None] - position[:, None, :]).abs().double())
        kernel = kernel * attention_BL[:, None, :]
        blind = kernel * (1 - torch.eye(tokens_BL.shape[1], dtype=torch.float64))
        shadows = kernel * block_BL[:, None, :]
        total = blind.sum(-1, keepdim=True) + shadows.sum(-1, keepdim=True)
        mixed = torch.tanh((blind @ states + shadows @ own) / total * 2)
        shadow = mixed @ self.head
        shadow[..., self.mask_id] = -40.0
        shadow_BKV = shadow.gather(1, place_BK[:, :, None].expand(-1, -1, shadow.shape[-1]))
        return self.logits(tokens_BL, attention_BL, wanted_BL), shadow_BKV


def word_tokenizer(words: list[str], **special: str) -> Any:
    """A WordLevel tokenizer over `words`, split at spaces; special names its special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=words[0], **special)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 1 + 0.1 * torch.randn(shape, generator=generator)
        if len(shape) == 1 and not name.endswith("bias")
        else torch.randn(shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }


def save_sharded(weights: dict[str, Tensor], folder: Path, shards: int = 2) -> None:
    """Safetensors shards and their index, as the hub's large checkpoints have."""
    names = sorted(weights)
    index: dict[str, Any] = {"metadata": {"total_size": sum(w.numel() * 4 for w in weights.values())}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name].contiguous() for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|> ' + message['role'] + ' <|end_header_id|> '+ message['content'] | trim"
    " + ' <|eot_id|> ' %}{% if loop.index0 == 0 %}{% set content = bos_token + ' ' + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|> assistant <|end_header_id|> ' }}"
)
SPECIAL = ["<|endoftext|>", "<|startoftext|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
WORDS = [*SPECIAL, "user", "assistant", *(f"w{n}" for n in range(40))]


def llada_config(**fields: Any) -> dict[str, Any]:
    """LLaDA-8B-Instruct's config.json, field by field, at a small size."""
    real = SHARED / "data" / "llada_8b_instruct" / "config.json"
    config = json.loads(real.read_text()) if real.exists() else {"model_type": "llada", "block_type": "llama"}
    return config | {
        "d_model": 32, "mlp_hidden_size": 48, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "max_sequence_length": 128,
        "vocab_size": len(WORDS), "embedding_size": len(WORDS) + 2, "mask_token_id": 2, "eos_token_id": 0,
        "pad_token_id": 0, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "weight_tying": False,
        "include_qkv_bias": False,
    } | fields  # fmt: skip


def llada_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    d, m, v = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    kv = d // config["n_heads"] * config["n_kv_heads"]
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (v, d), "ln_f.weight": (d,), "ff_out.weight": (v, d)}
    for n in range(config["n_layers"]):
        shapes |= {
            f"blocks.{n}.{name}.weight": shape
            for name, shape in {
                "q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "attn_out": (d, d), "ff_proj": (m, d),
                "up_proj": (m, d), "ff_out": (d, m), "attn_norm": (d,), "ff_norm": (d,),
            }.items()
        }  # fmt: skip
    return {f"model.transformer.{name}": weight for name, weight in random_weights(shapes, seed).items()}


def save_llada(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_sharded(weights, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 0}))
    tokenizer = word_tokenizer(
        WORDS,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        chat_template=LLADA_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return folder


REWARD_WORDS = ["<unk>", "<pad>", "<end>", "<user>", "<bot>", *(f"w{n}" for n in range(20))]
REWARD_TEMPLATE = "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<bot> ' }}{{ m['content'] + ' <end> ' }}{% endfor %}"
REWARD_SIZE = {
    "vocab_size": len(REWARD_WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_labels": 1, "max_position_embeddings": 256,
    "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
REWARD_FAMILIES = {
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**REWARD_SIZE, pad_token_id=1)),
    "qwen3": lambda: Qwen3ForSequenceClassification(
        Qwen3Config(**REWARD_SIZE, head_dim=8)
    ),  # no padding token of its own
}


def save_reward(folder: Path, family: str = "llama", pad: bool = True, seed: int = 1) -> Path:
    """A small random reward model with one label; `pad`: whether its tokenizer has a padding token."""
    torch.manual_seed(seed)
    REWARD_FAMILIES[family]().save_pretrained(folder)
    special = {"pad_token": "<pad>"} if pad else {}
    word_tokenizer(REWARD_WORDS, eos_token="<end>", chat_template=REWARD_TEMPLATE, **special).save_pretrained(folder)
    return folder


def classifier_settings(path: Path, **options: Any) -> Classifier:
    values = {
        "name": "t",
        "kind": "classifier",
        "path": str(path),
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 2,
    }
    return Classifier(**(values | options))


def load_classifier(path: Path, **options: Any) -> Classifier:
    return classifier_settings(path, **options).loaded(None, 0)


LIMIT = 6
"""Examples of the small runs that tests of the command line make."""


def small_run(llada: Path) -> list[str]:
    """What makes a run small: the random checkpoint, the oracle as reward, few examples."""
    return [
        f"model.path={llada}", "model.name=small", f"benchmark.limit={LIMIT}", "reward=verifier",
        "runtime.batch_size=4", "sampler.tokens_per_step=6",
    ]  # fmt: skip


def samples_of(run: Path) -> list[dict]:
    """Samples without what a clock decides."""
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for sample in samples:
        sample["cost"] = {key: value for key, value in sample["cost"].items() if not key.endswith("seconds")}
    return samples


def manifest_of(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A finished run's manifest with a configuration; fields override."""
    sources = {"benchmark": {"version": 1, "examples": 2, "sha256": "x"}}
    return {
        "schema": 1, "status": "finished", "config": config, "config_hash": "x", "overrides": [], "command": "rws run",
        "started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:00:01+00:00", "resumed": [], "error": None,
        "failed": {}, "versions": {}, "git": None, "machine": {}, "sources": sources,
    } | fields  # fmt: skip


def write_run(folder: Path, sampler: str, seed: int, values: dict[str, float], **config: object) -> Path:
    """A finished run's folder, from the partial credit of each example; config: what differs in its records."""
    folder.mkdir(parents=True)
    kinds = {"schedule": {"kind": "fixed"}, "remasking": {"kind": "none"}, "search": {"kind": "none"}}
    settings = {"seed": seed, "sampler": {"name": sampler, "strength": config.pop("strength", 1)} | kinds}
    settings |= {group: {"name": "x"} for group in ("model", "reward", "benchmark")}
    manifest = manifest_of(settings, config_hash=str(folder), status=config.get("status", "finished"))
    manifest["sources"]["benchmark"]["version"] = config.get("version", 1)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [
        sample_of(
            name, value, prompt=config.get("prompt", "p"), reference=config.get("reference", "r"),
            measures={"length.words": 4.0 * value}, tokens=[int(8 * value)],
        )
        for name, value in values.items()
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sample_of(name: str, partial: float, **fields: Any) -> dict[str, Any]:
    """A line of samples.jsonl about an answer of which a share is right; fields override."""
    order = {"god_tokens": 10 * partial, "kendall_tau": 1 - partial}
    cost = {"mdm_passes": 4, "mdm_tokens": 40, "mdm_seconds": 0.4, "reward_calls": 0, "reward_cache_hits": 0,
            "reward_tokens": 2, "reward_seconds": 0.0, "seconds": 0.5, "mdm_rows": 4}  # fmt: skip
    return {
        "id": name, "question": name, "history": [], "prompt": "p", "completion": "a", "reference": "r",
        "grade": {"correct": partial > 0.5, "partial": partial, "extracted": "a", "extractor": "x"}, "reward": None,
        "measures": {}, "order": order, "order_with_eos": order, "guidance": None, "tokens": [1], "length": 1,
        "committed": 1, "remasked": 0, "particles": [], "cost": cost,
    } | fields  # fmt: skip


def type_in(folder: Path, arguments: list[str]) -> None:
    """Type a command in a folder, as a process of its own; for multiprocessing."""
    import os

    from rws_cli.cli import app

    torch.set_num_threads(1)
    os.chdir(folder)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        app(arguments)


def write_big_run(folder: Path, examples: int, tokens: int) -> Path:
    """A finished run's folder with made-up records of many examples, two tokens per step in random order."""
    import random
    from dataclasses import asdict

    from rws_cli.analysis.guidance import guidance_statistics
    from rws_cli.analysis.order import order_statistics
    from rws_cli.analysis.summary import summarize
    from rws_cli.config.composing import compose
    from rws_cli.decoding.record import Cost, RowTrace
    from rws_cli.runs.records import join_trace, replace_samples, write_trace_part

    folder.mkdir(parents=True)
    draw = random.Random(0)
    words = [f" word{n}" for n in range(3000)]
    statistics = order_statistics(draw.sample(range(tokens), tokens), [n // 2 for n in range(tokens)], tokens)
    samples, rows = [], []
    for number in range(examples):
        order, response = draw.sample(range(tokens), tokens), [draw.randrange(len(words)) for _ in range(tokens)]
        numbers = [draw.random() for _ in order]
        trace = RowTrace(
            [n // 2 for n in range(tokens)], order, [response[p] for p in order], numbers, numbers[::-1],
            [1 + n for n in numbers], [9] * tokens, [1] * tokens, [False] * tokens, [None] * tokens, [False] * tokens,
            [None] * tokens,
        )  # fmt: skip
        name = f"e-{number}"
        rows.append({"id": name, **asdict(trace), "text": [words[t] for t in trace.token]})
        samples.append(
            {
                "id": name, "question": name, "history": [], "reference": "42", "reward": numbers[0], "measures": {},
                "prompt": f"question {number} " + " ".join(draw.choices(words, k=40)),
                "completion": "".join(words[t] for t in response), "order": statistics, "order_with_eos": statistics,
                "grade": {"correct": numbers[1] < 0.5, "partial": numbers[1], "extracted": "41", "extractor": "x"},
                "guidance": guidance_statistics(trace), "tokens": response, "length": tokens, "committed": tokens,
                "remasked": 0, "particles": [], "cost": asdict(Cost(32, 3200, 1.0, 32, 0, 3200, 1.0, 2.0)),
            }
        )  # fmt: skip
    replace_samples(folder, samples)
    write_trace_part(folder, rows)
    join_trace(folder, [row["id"] for row in rows])
    config = asdict(compose(f"sampler.gen_length={tokens}"))
    (folder / "manifest.json").write_text(json.dumps(manifest_of(config)))
    (folder / "metrics.json").write_text(json.dumps(summarize(samples) | {"measures": {}}))
    return folder


def grade_of(benchmark: Any, row: dict[str, Any], answer: str) -> Any:
    """The grade of an answer to a row, whose fields are read as from a file."""
    from rws_cli.benchmarks.base import Example
    from rws_cli.benchmarks.fields import read_fields

    kinds = {names: kind for names, kind in benchmark.needed.items() if set(names.split("|")) & row.keys()}
    return benchmark.grade(Example("q", "p", "", read_fields(row, kinds, benchmark.optional)), answer)
