"""Slow, obvious forward passes of LLaDA's architecture and of Llama's and Qwen's, one sequence at a time, no tricks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x: Tensor, theta: float, positions: list[int]) -> Tensor:
    """Rotary embedding of (heads, L, D): pair (i, i + D/2) turns by position / theta^(2i/D)."""
    d = x.shape[-1]
    out = x.clone()
    for n, position in enumerate(positions):
        for i in range(d // 2):
            angle = position / theta ** (2 * i / d)
            a, b = x[:, n, i], x[:, n, i + d // 2]
            out[:, n, i] = a * math.cos(angle) - b * math.sin(angle)
            out[:, n, i + d // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    kv_heads: int,
    theta: float,
    positions: list[int] | None = None,
    hides: Callable[[int, int], bool] = lambda query, key: False,
) -> Tensor:
    """Attention of (L, ·) projections; key heads are shared by heads // kv_heads query heads. hides: whether one place does
    not see another."""
    length = len(q)
    positions = list(range(length)) if positions is None else positions
    q, k, v = (x.view(length, n, -1).transpose(0, 1) for x, n in ((q, heads), (k, kv_heads), (v, kv_heads)))
    q, k = rotate(q, theta, positions), rotate(k, theta, positions)
    hidden = torch.tensor([[hides(query, key) for key in range(length)] for query in range(length)])
    out = []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        scores = q[head] @ k[shared].T / math.sqrt(q.shape[-1])
        out.append(torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1) @ v[shared])
    return torch.cat(out, dim=-1)


def llada_logits(
    tokens: Tensor,
    w: dict[str, Tensor],
    config: dict,
    positions: list[int] | None = None,
    blind: dict[int, int] | None = None,
) -> Tensor:
    """Logits (L, V) of one sequence (L,). blind: the place that a shadow does not see, by the shadow's own; only shadows see
    shadows."""
    blind = blind or {}

    def hides(query: int, key: int) -> bool:
        return (key in blind and query not in blind) or blind.get(query) == key

    w = {name.removeprefix("model.transformer."): weight for name, weight in w.items()}
    eps = config["rms_norm_eps"]
    x = w["wte.weight"][tokens]
    for n in range(config["n_layers"]):
        block = {k.removeprefix(f"blocks.{n}."): v for k, v in w.items() if k.startswith(f"blocks.{n}.")}
        h = rms_norm(x, block["attn_norm.weight"], eps)
        q, k, v = (h @ block[f"{name}_proj.weight"].T + block.get(f"{name}_proj.bias", 0) for name in "qkv")
        x = (
            x
            + attend(q, k, v, config["n_heads"], config["n_kv_heads"], config["rope_theta"], positions, hides)
            @ block["attn_out.weight"].T
        )
        h = rms_norm(x, block["ff_norm.weight"], eps)
        gate = h @ block["ff_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ block["up_proj.weight"].T)) @ block["ff_out.weight"].T
    return rms_norm(x, w["ln_f.weight"], eps) @ w["ff_out.weight"].T


def decoder_logits(tokens: Tensor, w: dict[str, Tensor], config: dict, blocks: list[int] | None = None) -> Tensor:
    """Logits (L, V) of one sequence (L,) by a Llama, a Qwen2 (biases of q, k and v) or a Qwen3 (norms of each head's q and
    k), whichever the weights are. Without a head of its own, or if config ties it, the embedding is the head."""
    eps = config["rms_norm_eps"]

    def hides(query: int, key: int) -> bool:
        return blocks is not None and blocks[key] > blocks[query]

    x = w["model.embed_tokens.weight"][tokens]
    for n in range(config["num_hidden_layers"]):
        layer = {k.removeprefix(f"model.layers.{n}."): v for k, v in w.items() if k.startswith(f"model.layers.{n}.")}
        h = rms_norm(x, layer["input_layernorm.weight"], eps)
        q, k, v = (h @ layer[f"self_attn.{p}_proj.weight"].T + layer.get(f"self_attn.{p}_proj.bias", 0) for p in "qkv")

        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        if "self_attn.q_norm.weight" in layer:
            q = rms_norm(q.view(len(q), heads, -1), layer["self_attn.q_norm.weight"], eps).flatten(1)
            k = rms_norm(k.view(len(k), kv_heads, -1), layer["self_attn.k_norm.weight"], eps).flatten(1)
        mixed = attend(q, k, v, heads, kv_heads, config["rope_theta"], hides=hides)
        x = x + mixed @ layer["self_attn.o_proj.weight"].T
        h = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate = h @ layer["mlp.gate_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ layer["mlp.up_proj.weight"].T)) @ layer["mlp.down_proj.weight"].T
    tied = config["tie_word_embeddings"] or "lm_head.weight" not in w
    return rms_norm(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def dream_logits(tokens: Tensor, w: dict[str, Tensor], config: dict) -> Tensor:
    """Logits (L, V) of one sequence (L,), moved right by one: place i reads the state at i − 1 (place 0 its own)."""
    logits = decoder_logits(tokens, w, config)
    return torch.cat([logits[:1], logits[:-1]])
