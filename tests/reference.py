"""Slow, obvious forward passes of LLaDA's and Dream's architectures, one sequence at a time, no masks, no tricks."""

from __future__ import annotations

import math

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
    blind: dict[int, int] | None = None,
) -> Tensor:
    """Bidirectional attention of (L, ·) projections; key heads are shared by heads // kv_heads query heads. blind: the
    place that a shadow does not see, by the shadow's own; only shadows see shadows."""
    length, blind = len(q), blind or {}
    positions = list(range(length)) if positions is None else positions
    q, k, v = (x.view(length, n, -1).transpose(0, 1) for x, n in ((q, heads), (k, kv_heads), (v, kv_heads)))
    q, k = rotate(q, theta, positions), rotate(k, theta, positions)
    out = []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        scores = q[head] @ k[shared].T / math.sqrt(q.shape[-1])
        for n in range(length):
            for shadow, hidden in blind.items():
                if n not in blind:
                    scores[n, shadow] = -math.inf
                if n == shadow:
                    scores[n, hidden] = -math.inf
        out.append(torch.softmax(scores, dim=-1) @ v[shared])
    return torch.cat(out, dim=-1)


def llada_logits(
    tokens: Tensor,
    w: dict[str, Tensor],
    config: dict,
    positions: list[int] | None = None,
    blind: dict[int, int] | None = None,
) -> Tensor:
    """Logits (L, V) of one sequence (L,); positions and blind as attend has them."""
    w = {name.removeprefix("model.transformer."): weight for name, weight in w.items()}
    eps = config["rms_norm_eps"]
    x = w["wte.weight"][tokens]
    for n in range(config["n_layers"]):
        block = {k.removeprefix(f"blocks.{n}."): v for k, v in w.items() if k.startswith(f"blocks.{n}.")}
        h = rms_norm(x, block["attn_norm.weight"], eps)
        q, k, v = (h @ block[f"{name}_proj.weight"].T + block.get(f"{name}_proj.bias", 0) for name in "qkv")
        x = (
            x
            + attend(q, k, v, config["n_heads"], config["n_kv_heads"], config["rope_theta"], positions, blind)
            @ block["attn_out.weight"].T
        )
        h = rms_norm(x, block["ff_norm.weight"], eps)
        gate = h @ block["ff_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ block["up_proj.weight"].T)) @ block["ff_out.weight"].T
    return rms_norm(x, w["ln_f.weight"], eps) @ w["ff_out.weight"].T


def dream_logits(tokens: Tensor, w: dict[str, Tensor], config: dict) -> Tensor:
    """Logits (L, V) of one sequence (L,), moved right by one: place i reads the state at i − 1 (place 0 its own)."""
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens]
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}."
        h = rms_norm(x, w[f"{at}input_layernorm.weight"], eps)
        q, k, v = (h @ w[f"{at}self_attn.{p}_proj.weight"].T + w[f"{at}self_attn.{p}_proj.bias"] for p in "qkv")
        mixed = attend(q, k, v, config["num_attention_heads"], config["num_key_value_heads"], config["rope_theta"])
        x = x + mixed @ w[f"{at}self_attn.o_proj.weight"].T
        h = rms_norm(x, w[f"{at}post_attention_layernorm.weight"], eps)
        gate = h @ w[f"{at}mlp.gate_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ w[f"{at}mlp.up_proj.weight"].T)) @ w[f"{at}mlp.down_proj.weight"].T
    logits = rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
    return torch.cat([logits[:1], logits[:-1]])
