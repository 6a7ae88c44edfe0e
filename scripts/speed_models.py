"""Models of a given shape with random weights, and a tokenizer of any size, for bench_speed.py."""

from __future__ import annotations

import functools
import itertools
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rws_cli.config.composing import compose
from rws_cli.models.base import Denoiser, bidirectional_forward
from rws_cli.rewards.classifier import Classifier

TEMPLATE = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """A decoder: width, width of the MLP, layers, heads, heads of keys and values, tokens."""

    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    shift: int = 0

    @property
    def backbone(self) -> int:
        """Weights that every token goes through."""
        keys = self.width * self.kv_heads // self.heads
        return self.layers * self.width * (2 * self.width + 2 * keys + 3 * self.hidden)

    @property
    def weights(self) -> int:
        return self.backbone + 2 * self.vocabulary * self.width

    def config(self, kind: Any, **rest: Any) -> Any:
        return kind(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
            **rest,
        )


SHAPES = {
    "scaled": (Shape(512, 1536, 8, 8, 8, 126_464), Shape(256, 768, 3, 4, 4, 50_000)),
    "small": (Shape(32, 48, 2, 4, 4, 2_000), Shape(16, 24, 1, 2, 2, 1_500)),
    "llada-8b": (Shape(4096, 12_288, 32, 32, 32, 126_464), Shape(1536, 4608, 20, 12, 12, 120_000)),
    "dream-7b": (Shape(3584, 18_944, 28, 28, 4, 152_064, shift=1), Shape(1536, 4608, 18, 12, 12, 120_000)),
}
"""A denoiser, and a causal reward model with a tenth of its weights, in the backbone as in the embeddings."""


def words(vocabulary: int) -> Any:
    """A byte-pair tokenizer of any size without any text: " ab" and " abcd" are merged of pairs of letters."""
    pairs = ["".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2)]
    tokens = ["<end>", "<mask>", *pre_tokenizers.ByteLevel.alphabet()]
    merges: list[tuple[str, str]] = []
    for left, right in itertools.chain(
        (tuple(pair) for pair in pairs), (("Ġ", pair) for pair in pairs),
        ((f"Ġ{a}", b) for a, b in itertools.product(pairs, repeat=2)),
    ):  # fmt: skip
        if len(tokens) == vocabulary:
            break
        tokens.append(left + right)
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<end>", "pad_token": "<end>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **special)


def build(name: str, device: str, dtype: str) -> tuple[Denoiser, Classifier, Shape]:
    """A denoiser of a shape with random weights, a reward model for it, and the denoiser's shape; for `tiny`, the
    bundled models."""
    placement = [f"model.device={device}", f"reward.device={device}", f"model.dtype={dtype}", f"reward.dtype={dtype}"]
    if name == "tiny":
        config = compose("sampler=rws", *placement)
        denoiser = config.model.load()
        c = denoiser.model.config
        sizes = (c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads)
        return denoiser, config.reward.loaded(None, 0), Shape(*sizes, c.vocab_size)
    shape, small = SHAPES[name]
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        kind = (Qwen2Config, Qwen2ForCausalLM) if shape.shift else (LlamaConfig, LlamaForCausalLM)
        native = shape.config(kind[0], use_cache=False)
        native.is_causal = False
        model: Any = kind[1](native).eval().requires_grad_(False)
        # Sharp enough that two summation orders do not decide between tokens.
        model.lm_head.weight.normal_(std=4 * shape.width**-0.5)
        reward = LlamaForSequenceClassification(small.config(LlamaConfig, num_labels=1))
    torch.set_default_dtype(torch.float32)
    tokenizer = words(shape.vocabulary)
    denoiser = Denoiser(
        path=name, model_class=kind[1], arguments={"config": native}, tokenizer=tokenizer, mask_id=1, eos_ids=(0,),
        pad_id=0, chat_template=False, model=model, forward=bidirectional_forward(model, shape.shift),
        device=torch.device(device),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        reward.save_pretrained(folder)
        words(small.vocabulary).save_pretrained(folder)
        loaded = compose("reward=classifier", f"reward.path={Path(folder)}", *placement).reward.loaded(None, 0)
    return denoiser, loaded, shape


@functools.cache
def matmul_rate(device: str, dtype: str) -> float:
    """FLOPs a second of a large square product, the best of some tries."""
    n = 8192 if device != "cpu" else 2048
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    return 2 * n**3 / best_time(lambda: a @ a, device)


@functools.cache
def bandwidth(device: str) -> float:
    """Bytes a second read and written by copying a tensor far larger than any cache."""
    a = torch.zeros(1 << (30 if device != "cpu" else 29), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() / best_time(lambda: b.copy_(a), device)


def best_time(work: Any, device: str, tries: int = 5) -> float:
    import time

    times = []
    for _ in range(tries + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
