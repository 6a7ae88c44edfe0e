"""Models of published shapes with random weights, and a tokenizer of any size, for the bench scripts."""

from __future__ import annotations

import copy
import itertools
import string
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from rws_cli.config.composing import compose
from rws_cli.models.base import Denoiser, bidirectional_forward
from rws_cli.models.packed import pack_weights
from rws_cli.models.topology import FULL, Topology
from rws_cli.rewards.classifier import Classifier

TEMPLATE = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
MASK, END = 1, 0


@dataclass(frozen=True)
class Shape:
    """A decoder. kind: its class in transformers; width, hidden: channels of the stream and of the MLP; tied: whether the
    output head is the embedding; shift: 1 if logits for position i are read at i − 1."""

    kind: str
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int | None = None
    tied: bool = False
    shift: int = 0
    topology: Topology = FULL

    @property
    def channels(self) -> int:
        """Of all query heads."""
        return self.heads * (self.head_dim or self.width // self.heads)

    @property
    def attention(self) -> int:
        """Weights of the attention's products."""
        return self.layers * 2 * self.width * self.channels * (self.heads + self.kv_heads) // self.heads

    @property
    def mlp(self) -> int:
        return self.layers * 3 * self.width * self.hidden

    @property
    def head(self) -> int:
        return self.width * self.vocabulary

    def flops(self, rows: int, queries: int, keys: int) -> float:
        """Of a backbone pass: two per weight and token, and four per pair of positions and channel."""
        return rows * queries * (2.0 * (self.attention + self.mlp) + 4.0 * keys * self.channels * self.layers)

    def config(self, **more: Any) -> Any:
        kind = getattr(transformers, f"{self.kind}Config")
        return kind(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim or self.width // self.heads, tie_word_embeddings=self.tied,
            max_position_embeddings=4096, bos_token_id=None, eos_token_id=END, pad_token_id=END, **more,
        )  # fmt: skip


SHAPES = {
    "llada-8b": Shape("Llama", 4096, 12_288, 32, 32, 32, 126_464),
    "dream-7b": Shape("Qwen2", 3584, 18_944, 28, 28, 4, 152_064, shift=1),
    "qwen3-0.6b": Shape("Qwen3", 1024, 3072, 28, 16, 8, 151_936, 128, tied=True),
    "qwen3-0.6b-blocks": Shape("Qwen3", 1024, 3072, 28, 16, 8, 151_936, 128, tied=True, topology=Topology(32, "completion")),
    "sdar-1.7b": Shape("Qwen3", 2048, 6144, 28, 16, 8, 151_936, 128, tied=True, topology=Topology(4, "sequence")),
    "scaled": Shape("Llama", 512, 1536, 8, 8, 8, 126_464),
    "scaled-reward": Shape("Llama", 256, 768, 3, 4, 4, 50_000),
    "small": Shape("Llama", 32, 48, 2, 4, 4, 2_000),
    "small-reward": Shape("Llama", 16, 24, 1, 2, 2, 1_500),
    "small-blocks": Shape("Qwen3", 256, 768, 6, 8, 8, 4096, 32, tied=True, topology=Topology(8, "sequence")),
}  # fmt: skip


def build_denoiser(name: str, device: str, dtype: str, one_layer: bool = False) -> Denoiser:
    """A denoiser of a shape with random weights. one_layer: all layers use the weights of one."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    native = shape.config(use_cache=False)
    native.is_causal = False
    if one_layer:
        native.num_hidden_layers = 1
    torch.set_default_dtype(getattr(torch, dtype))
    kind = getattr(transformers, f"{shape.kind}ForCausalLM")
    with torch.device(device):
        model: Any = kind(native).eval().requires_grad_(False)
        if not shape.tied:  # sharp enough that two orders of summation do not decide between tokens
            model.lm_head.weight.normal_(std=4 * shape.width**-0.5)
    torch.set_default_dtype(torch.float32)
    if one_layer:
        model.model.layers = torch.nn.ModuleList(layer_at(model.model.layers[0], n) for n in range(shape.layers))
        native.num_hidden_layers = shape.layers
    if shape.topology is not FULL:
        pack_weights(model)
    return Denoiser(
        path=name, model_class=kind, arguments={"config": native}, tokenizer=words(shape.vocabulary), mask_id=MASK,
        eos_ids=(END,), pad_id=END, chat_template=False, topology=shape.topology, model=model,
        forward=bidirectional_forward(model, shape.shift), device=torch.device(device), shift=shape.shift,
    )  # fmt: skip


def layer_at(layer: Any, index: int) -> Any:
    """A layer with the same weights and another place in the cache of keys and values."""
    other, attention = copy.copy(layer), copy.copy(layer.self_attn)
    attention.layer_idx = index
    other._modules = layer._modules | {"self_attn": attention}
    return other


def build_reward(name: str, device: str, dtype: str) -> Classifier:
    """A causal reward model of a shape with random weights."""
    shape = SHAPES[name]
    torch.manual_seed(1)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = LlamaForSequenceClassification(replace(shape, kind="Llama").config(num_labels=1))
    torch.set_default_dtype(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        words(shape.vocabulary).save_pretrained(folder)
        placement = [f"reward.path={folder}", f"reward.device={device}", f"reward.dtype={dtype}"]
        return compose("reward=classifier", *placement).reward.loaded(None, 0)


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


def matmul_rate(device: str, dtype: str) -> float:
    """FLOPs per second of a large square product, the best of some tries."""
    n = 8192 if device != "cpu" else 2048
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    return 2 * n**3 / best_time(lambda: a @ a, device)


def bandwidth(device: str) -> float:
    """Bytes per second read, by summing a tensor far larger than any cache."""
    a = torch.zeros(1 << (30 if device != "cpu" else 27), device=device)
    return 4 * a.numel() / best_time(a.sum, device)


def best_time(work: Callable[[], Any], device: str, tries: int = 5) -> float:
    work()
    return min(seconds_of(work, device) for _ in range(tries))


def seconds_of(work: Callable[[], Any], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
