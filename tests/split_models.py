"""What each of several ranks computes, for tests; a module of its own, so that the ranks' processes can import it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from support import llada_config, llada_weights, make_settings, new_rows, save_llada

from rws_cli.decoding.cache import BlockCache
from rws_cli.models.base import Denoiser, Model
from rws_cli.models.sharded import Rank, joined


def llada_variants(folder: Path) -> dict[str, Model]:
    """Checkpoints in LLaDA's format: its own shape, with fewer key-value heads, and with tied embeddings."""
    variants = {"plain": {}, "grouped": {"n_kv_heads": 2}, "tied": {"weight_tying": True}}
    found = {}
    for name, fields in variants.items():
        config = llada_config(**fields)
        weights = llada_weights(config)
        if config["weight_tying"]:
            del weights["model.transformer.ff_out.weight"]
        found[name] = make_settings("llada", save_llada(folder / name, config, weights))
    return found


def logits(denoiser: Denoiser) -> list[list[float]]:
    """Logits with masked padding; of WINO's shadows, where there are any; and of a second pass that reads kept keys and
    values, for both caches."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(6, 48, (n,), generator=generator).tolist() for n in (3, 8, 6)]
    canvas = new_rows(prompts, list("abc"), 6, denoiser.mask_id, denoiser.pad_id, 6)
    everything = torch.ones(3, 6, dtype=torch.bool)
    inside = torch.tensor([False, False, True, True, True, False])
    found = []
    with torch.inference_mode():
        wanted = torch.zeros_like(canvas.attention_BL)
        wanted[:, canvas.start :] = True
        found.append(denoiser.logits(canvas.tokens_BL, canvas.attention_BL, wanted))
        if denoiser.shift == 0:
            place_BK = torch.arange(canvas.start, canvas.start + 3).repeat(3, 1)
            exists_BK = torch.ones_like(place_BK, dtype=torch.bool)
            found += denoiser.shadowed(canvas.tokens_BL, canvas.attention_BL, wanted, place_BK, exists_BK)
        canvas.inside_BG = inside.repeat(3, 1)
        for kind in ("prefix", "dual"):
            cache = BlockCache(denoiser, kind, None, 3)
            for wanted_BG in (everything, everything & inside):
                found.append(cache.logits(canvas, torch.arange(3), wanted_BG, wanted_BG.sum(1).tolist())[0])
    return [one.flatten().tolist() for one in found]


def split(settings: dict[str, Model], rank: Rank, connection: Connection) -> None:
    """Tell the logits of each model, and the weights that this rank holds of it."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with joined(rank):
        for name, one in settings.items():
            denoiser = one.load(None, rank.count)
            held = sum(
                p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in denoiser.model.parameters()
            )
            found[name] = logits(denoiser), held
    connection.send(found)
