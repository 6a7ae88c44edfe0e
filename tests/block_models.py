"""Small random decoders that attend block by block, without files; and a slow decoder of one prompt to compare with."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rws_cli.models.base import Denoiser, bidirectional_forward
from rws_cli.models.topology import Topology

VOCABULARY, MASK, EOS, PAD = 40, 39, 38, 37


def block_denoiser(
    size: int | None, anchor: str = "sequence", first_token: bool = False, shift: int = 0, seed: int = 0
) -> Denoiser:
    """A random Qwen3 of three layers. Its embeddings are scaled so that tokens matter to the logits."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    config.is_causal = False
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    return Denoiser(
        path="", model_class=Qwen3ForCausalLM, arguments={"config": config}, tokenizer=None, mask_id=MASK, eos_ids=(EOS,),
        pad_id=PAD, chat_template=False, topology=Topology(size, anchor, first_token), model=model,
        forward=bidirectional_forward(model, shift), device=torch.device("cpu"), shift=shift,
    )  # fmt: skip


def blocks_of(prompt: int, length: int, size: int, anchor: str) -> list[int]:
    """The block of each place of a sequence of `length` tokens, `prompt` of them a prompt's, by counting off."""
    blocks, number = [0] * length, 0
    first = 0 if anchor == "sequence" else prompt % size
    for place in range(length):
        if place >= first and (place - first) % size == 0 and place > 0:
            number += 1
        blocks[place] = number
    return blocks


def logits_of(denoiser: Denoiser, ids: list[int], blocks: list[int]) -> Tensor:
    """Logits (L, V) of a sequence, each place reading its own state, from one pass under a mask made entry by entry."""
    length = len(ids)
    mask = torch.zeros(1, 1, length, length)
    for query in range(length):
        for key in range(length):
            if blocks[key] > blocks[query]:
                mask[0, 0, query, key] = -torch.inf
    with torch.inference_mode():
        return denoiser.model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0]


def decode_slowly(
    denoiser: Denoiser, prompt: list[int], gen_length: int, size: int, anchor: str, commit: Any
) -> list[tuple[int, int]]:
    """(position, token) of each commit, one prompt alone, every pass over prompt and blocks up to the open one.

    commit: from the logits of the open masks (position → logits) the positions to commit.
    """
    ids, trace = [*prompt, *[MASK] * gen_length], []
    blocks = blocks_of(len(prompt), len(ids), size, anchor)
    for block in sorted(set(blocks[len(prompt) :])):
        places = [n for n in range(len(prompt), len(ids)) if blocks[n] == block]
        end = places[-1] + 1
        while any(ids[n] == MASK for n in places):
            logits = logits_of(denoiser, ids[:end], blocks[:end])
            open_ = {n: logits[n] for n in places if ids[n] == MASK}
            for place in sorted(commit(open_)):
                ids[place] = proposed(open_[place])
                trace.append((place - len(prompt), ids[place]))
    return trace


def proposed(logits: Tensor, mask: int = MASK) -> int:
    """The likeliest token, the first of equals, never the mask."""
    return int(logits.index_fill(0, torch.tensor(mask), -torch.inf).argmax())


def surest(open_: dict[int, Tensor], count: int = 1, mask: int = MASK) -> list[int]:
    """The places whose likeliest token is most probable, the leftmost of equals."""
    p = {place: float(logits.double().softmax(-1)[proposed(logits, mask)]) for place, logits in open_.items()}
    return sorted(p, key=lambda place: (-p[place], place))[:count]


two_surest = partial(surest, count=2)
