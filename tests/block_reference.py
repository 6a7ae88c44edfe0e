"""A slow forward pass of decoders that attend block by block, slow decoders with the published rules, and small checkpoints
in the hub's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from block_models import blocks_of, logits_of, proposed
from dream_files import byte_letters
from reference import rms_norm, rotate
from support import save_sharded, word_tokenizer
from torch import Tensor

from rws_cli.decoding.batch import Prompt
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.noise import row_key
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.record import Completion
from rws_cli.models.base import Denoiser

# --- forward pass ---------------------------------------------------------------------------------------------------


@dataclass
class Layer:
    """The weights of one layer. q, k, v: weight, and bias or None. q_norm, k_norm: of each head, or None. feed_forward: of
    one token."""

    input_norm: Tensor
    q: tuple[Tensor, Tensor | None]
    k: tuple[Tensor, Tensor | None]
    v: tuple[Tensor, Tensor | None]
    output: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    post_norm: Tensor
    feed_forward: Callable[[Tensor], Tensor]


@dataclass
class Weights:
    """A decoder's weights. rotary: the share of each head that is rotated."""

    embedding: Tensor
    layers: list[Layer]
    norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    theta: float
    eps: float
    rotary: float = 1.0


def qwen_layer(w: dict[str, Tensor], number: int, feed_forward: Any = None) -> Layer:
    """A layer whose weights have the names that Qwen's have. feed_forward: if not a gated one."""
    w = {k.removeprefix(f"model.layers.{number}."): v for k, v in w.items() if k.startswith(f"model.layers.{number}.")}
    mlp = [w.get(f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")]
    return Layer(
        w["input_layernorm.weight"],
        *((w[f"self_attn.{name}_proj.weight"], w.get(f"self_attn.{name}_proj.bias")) for name in "qkv"),
        w["self_attn.o_proj.weight"], w.get("self_attn.q_norm.weight"), w.get("self_attn.k_norm.weight"),
        w["post_attention_layernorm.weight"], feed_forward(w) if feed_forward else lambda x: gated(x, *mlp),
    )  # fmt: skip


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    z = gate @ x
    return down @ (z * torch.sigmoid(z) * (up @ x))


def slow_logits(ids: list[int], blocks: list[int], w: Weights) -> Tensor:
    """Logits (L, V), each place reading its own state; a place attends to those whose block is not after its own."""
    length, x = len(ids), w.embedding[torch.tensor(ids)]
    for layer in w.layers:
        h = rms_norm(x, layer.input_norm, w.eps)
        projected = []
        for (weight, bias), count, scale in (
            (layer.q, w.heads, layer.q_norm), (layer.k, w.kv_heads, layer.k_norm), (layer.v, w.kv_heads, None)
        ):  # fmt: skip
            one = h @ weight.T if bias is None else h @ weight.T + bias
            one = one.view(length, count, -1).transpose(0, 1)
            projected.append(one if scale is None else rms_norm(one, scale, w.eps))
        q, k, v = projected
        turned = int(q.shape[-1] * w.rotary)
        q, k = (torch.cat([rotate(y[..., :turned], w.theta, list(range(length))), y[..., turned:]], -1) for y in (q, k))
        mixed = []
        for n in range(w.heads):
            rows = []
            for place in range(length):
                seen = [other for other in range(length) if blocks[other] <= blocks[place]]
                shared = n // (w.heads // w.kv_heads)
                weight = torch.softmax(k[shared, seen] @ q[n, place] / math.sqrt(q.shape[-1]), -1)
                rows.append(weight @ v[shared, seen])
            mixed.append(torch.stack(rows))
        x = x + torch.cat(mixed, -1) @ layer.output.T
        h = rms_norm(x, layer.post_norm, w.eps)
        x = x + torch.stack([layer.feed_forward(token) for token in h])
    return rms_norm(x, w.norm, w.eps) @ w.head.T


SHORT, LONG = [3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2, 4, 5]


def check_logits(denoiser: Denoiser, slow: Callable[[list[int]], Tensor]) -> None:
    """Two sequences alone, and side by side with padding on the left, have the logits of a slow pass, at 1e-5.

    slow: the logits (L, V) of a sequence, each place reading its own state.
    """
    shift = denoiser.shift
    expected = []
    for ids in (SHORT, LONG):
        own = slow(ids)
        expected.append(torch.cat([own[:1], own[:-1]]) if shift else own)
        tokens = torch.tensor([ids])
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        with torch.inference_mode():
            torch.testing.assert_close(
                denoiser.logits(tokens, everywhere, everywhere), expected[-1], atol=1e-5, rtol=1e-5
            )
    tokens = torch.tensor([[0] * (len(LONG) - len(SHORT)) + SHORT, LONG])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[0, : len(LONG) - len(SHORT)] = False
    wanted = attention.clone()
    wanted[:, : len(LONG) - len(SHORT) + 1] = False  # a first token has none before it to be read at
    with torch.inference_mode():
        logits = denoiser.logits(tokens, attention, wanted)
    torch.testing.assert_close(
        logits, torch.cat([expected[0][1:], expected[1][len(LONG) - len(SHORT) + 1 :]]), atol=1e-5, rtol=1e-5
    )


# --- decoding -------------------------------------------------------------------------------------------------------

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18, 19], [20, 21, 22]]


def decode(
    denoiser: Denoiser, sampler: Any, rows: int = 3, cached: bool = True, size: int | None = None
) -> list[Completion]:
    """The completions of PROMPTS. size: they end with a whole block of this size, at most sampler.gen_length tokens."""
    prompts = []
    for n, ids in enumerate(PROMPTS):
        length = sampler.gen_length - (len(ids) + sampler.gen_length) % size if size else None
        prompts.append(Prompt(ids, row_key(0, f"{n}"), length))
    cache = PrefixCache(denoiser, rows) if cached else None
    decoder = Decoder(denoiser, prompts, sampler, rows=rows, cache=cache)
    return sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)


def check_cache(denoiser: Denoiser, sampler: Any) -> None:
    """The same tokens and steps, and probabilities at 1e-5, with and without the cache, for 1 row and for 3."""
    expected = decode(denoiser, sampler, 1, False)
    for rows, cached in ((1, True), (3, True), (3, False)):
        for one, other in zip(expected, decode(denoiser, sampler, rows, cached), strict=True):
            assert (one.tokens, one.trace.position, one.trace.step) == (
                other.tokens,
                other.trace.position,
                other.trace.step,
            )
            torch.testing.assert_close(
                torch.tensor(one.trace.confidence), torch.tensor(other.trace.confidence), atol=1e-5, rtol=1e-5
            )


def commits(completion: Completion, length: int) -> list[list[tuple[int, int]]]:
    """(position, token) of each step's commits, of positions below `length`."""
    trace, steps = completion.trace, {}
    for step, position, token in zip(trace.step, trace.position, trace.token, strict=True):
        if position < length:
            steps.setdefault(step, []).append((position, token))
    return [sorted(steps[step]) for step in sorted(steps)]


def sdar_decode(
    denoiser: Denoiser, prompt: list[int], length: int, size: int, steps: int, rule: str, threshold: float | None
) -> list[list[tuple[int, int]]]:
    """(position, token) of each step's commits by SDAR's rules at T = 0, for a completion that ends with a block.

    rule: dynamic, static or sequential. LLaDA2.0's rule is `dynamic` with as many steps as a block has tokens. Where a step's
    quota is above the number of masks, all masks are committed.
    """
    x, trace = [*prompt, *[denoiser.mask_id] * length], []
    assert len(x) % size == 0
    quota = [size // steps + (1 if step < size % steps else 0) for step in range(steps)]
    blocks = blocks_of(len(prompt), len(x), size, "sequence")
    for begin in range(len(prompt) // size * size, len(x), size):
        for step in range(steps):
            masked = [n for n in range(begin, begin + size) if x[n] == denoiser.mask_id]
            if not masked:
                break
            logits = logits_of(denoiser, x[: begin + size], blocks[: begin + size]).double()
            token = {n: proposed(logits[n], denoiser.mask_id) for n in masked}
            p = {n: float(logits[n].softmax(-1)[token[n]]) for n in masked}
            if rule == "sequential":
                chosen = masked[: quota[step]]
            else:
                chosen = sorted(masked, key=lambda n: (-p[n], n))[: quota[step]]
            if rule == "dynamic":
                high = [n for n in masked if p[n] > threshold]
                chosen = high if len(high) >= quota[step] else chosen
            for n in chosen:
                x[n] = token[n]
            trace.append(sorted((n - len(prompt), token[n]) for n in chosen))
    assert denoiser.mask_id not in x
    return trace


# --- files ----------------------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_qwen_files(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], mask: str, **tokenizer: Any
) -> Path:
    """A checkpoint with Qwen's tokenizer: bytes 0 to 255, then end of text, start and end of turn, and the mask. tokenizer:
    further fields of tokenizer_config.json."""
    save_sharded(weights, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256], "pad_token_id": 256}))
    (folder / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(byte_letters())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {256: "<|endoftext|>", 257: "<|im_start|>", 258: "<|im_end|>", 259: mask}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "added_tokens_decoder": {str(n): {"content": token} | plain for n, token in added.items()},
        "bos_token": None, "chat_template": CHATML, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
        "model_max_length": 131072, "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | tokenizer))
    return folder


ROLES = (
    "{% for m in messages %}{{ '<role>' + ('HUMAN' if m['role'] == 'user' else 'ASSISTANT') + '</role>' + m['content']"
    " + '<|role_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)
ROLE_WORDS = ["<unk>", "<|endoftext|>", "<|role_end|>", "<|mask|>", "<role>", *(f"w{n}" for n in range(59))]


def save_role_files(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    """A checkpoint with a tokenizer.json as LLaDA-MoE and LLaDA2 have it, of words: end of text 1, end of turn 2, mask 3."""
    save_sharded(weights, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 1}))
    tokenizer = word_tokenizer(
        ROLE_WORDS, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=ROLES,
        additional_special_tokens=["<|role_end|>", "<|mask|>"],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder
