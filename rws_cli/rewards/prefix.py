"""Keys and values of texts that a causal reward model has read, so that it reads again only what follows the first change.

Along a decoding a row's text keeps its beginning, the prompt at least. Scores are those of reading it whole, to rounding.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

ROOM = 64
"""Places are added by so many."""


class PrefixCache:
    """What is kept: by slot the tokens read last, and keys and values (slots, H, L, D) of each layer, one place a token."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.ids: dict[int, list[int]] = {}
        self.layers: list[list[Tensor]] = []

    def score(self, slots: list[int | None], ids: list[list[int]], pad: int) -> tuple[Tensor, list[int]]:
        """What the model returns for texts as token ids, (B, labels), and the tokens that it had to read of each.

        A slot is where a text like it was kept, and this one is; None: nowhere. pad: the model's padding token, with
        which no text ends.
        """
        device = self.model.device
        pairs = list(zip(slots, ids, strict=True))
        known = [0 if slot is None else common(self.ids.get(slot, []), row) for slot, row in pairs]
        reads = [len(row) - n for n, row in zip(known, ids, strict=True)]
        before, length = max(known), max(reads)
        known_B = torch.tensor(known, device=device)
        place_S = torch.arange(length, device=device)
        tokens_BS = torch.tensor([row[n:] + [pad] * (length - len(row) + n) for n, row in zip(known, ids, strict=True)])
        is_read_BS = place_S < torch.tensor(reads, device=device)[:, None]
        is_known_BP = torch.arange(before, device=device) < known_B[:, None]
        position_BS = known_B[:, None] + place_S
        past = DynamicCache()
        if before:
            row_B = torch.tensor([slot or 0 for slot in slots], device=device)
            for number, (keys, values) in enumerate(self.layers):
                past.update(keys[row_B, :, :before], values[row_B, :, :before], number)
        found = self.model(
            input_ids=tokens_BS.to(device),
            attention_mask=torch.cat([is_known_BP, is_read_BS], 1).long(),
            position_ids=position_BS,
            past_key_values=past,
            use_cache=True,
        ).logits
        kept = {slot: n for n, slot in enumerate(slots) if slot is not None}
        if kept:
            self.keep(kept, past, before, position_BS)
            self.ids |= {slot: ids[n] for slot, n in kept.items()}
        return found, reads

    def keep(self, kept: dict[int, int], past: DynamicCache, before: int, position_BS: Tensor) -> None:
        """Put what was read into the slots, from which rows of the call; what stands behind a text's end is never read."""
        slot_K, row_K = (torch.tensor(list(x), device=position_BS.device) for x in (kept.keys(), kept.values()))
        place_KS = position_BS[row_K]
        needed = (int(slot_K.max()) + 1, int(place_KS.max()) + 1)
        for number, layer in enumerate(past.layers):
            if number == len(self.layers):
                self.layers.append([layer.keys[:0, :, :0], layer.values[:0, :, :0]])
            for which, new in enumerate((layer.keys, layer.values)):
                store = self.layers[number][which] = roomy(self.layers[number][which], *needed)
                store[slot_K[:, None], :, place_KS] = new[row_K, :, before:].transpose(1, 2)


def roomy(store: Tensor, slots: int, length: int) -> Tensor:
    """The store (slots, H, L, D) itself, or a larger copy of it if it is too small."""
    if store.shape[0] >= slots and store.shape[2] >= length:
        return store
    slots, length = max(slots, store.shape[0]), max(-(-length // ROOM) * ROOM, store.shape[2])
    larger = store.new_zeros(slots, store.shape[1], length, store.shape[3])
    larger[: store.shape[0], :, : store.shape[2]] = store
    return larger


def common(before: list[int], now: list[int]) -> int:
    """Tokens at the beginning that two texts share; fewer than all, for the last has to be read."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
    return min(len(now) - 1, shared)


def holds(model: Any, ids: list[int], pad: int) -> bool:
    """Whether the model scores a text the same when it has read its beginning before, in another text; not if it looks
    ahead. pad: its padding token."""
    if getattr(model.config, "sliding_window", None) is not None:
        return False
    half, other = len(ids) // 2, [*ids[: len(ids) // 2], *ids[::-1][: len(ids) // 4]]
    cache = PrefixCache(model)
    cache.score([0, 1], [other, ids], pad)
    again, reads = cache.score([0, None], [ids, ids], pad)
    exact = 1e-3 if model.dtype == torch.float32 else 5e-2
    return reads[0] <= len(ids) - half and bool(torch.allclose(again[0], again[1], atol=exact, rtol=exact))
