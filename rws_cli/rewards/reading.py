"""How a reward model reads texts: whole, or on from the first change since it read the last one of a slot.

A call makes one upload and waits for nothing: what stands where is counted on the host, and masks come of the lengths on
the device. Scores are those of reading each text whole, to rounding.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rws_cli.models.base import additive

ROOM = 64
"""Places are added by so many."""


def read_whole(model: Any, ids: list[list[int]], pad: int) -> Any:
    """What the model returns for texts as token ids, read from their beginning. pad: its padding token."""
    length = max(map(len, ids))
    table = torch.tensor([[len(row), *row, *[pad] * (length - len(row))] for row in ids]).to(model.device)
    is_read_BS = torch.arange(length, device=table.device) < table[:, :1]
    attention: Tensor | None = is_read_BS.long()
    # transformers waits for the device to see whether a mask (B, S) hides anything.
    if getattr(model.config, "is_causal", True) is False and model.config._attn_implementation in ("sdpa", "eager"):
        hides = any(len(row) < length for row in ids)
        attention = additive(is_read_BS[:, None].expand(-1, length, -1), model.dtype) if hides else None
    return model(input_ids=table[:, 1:], attention_mask=attention)


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
        known = [
            0 if slot is None else common(self.ids.get(slot, []), row) for slot, row in zip(slots, ids, strict=True)
        ]
        reads = [len(row) - n for n, row in zip(known, ids, strict=True)]
        before, length = max(known), max(reads)
        kept = {slot: n for n, slot in enumerate(slots) if slot is not None}
        pairs = [*kept.items(), *[(0, 0)] * (len(ids) - len(kept))]
        table = torch.tensor(
            [
                [known[n], reads[n], slots[n] or 0, *pairs[n], *row[known[n] :], *[pad] * (length - reads[n])]
                for n, row in enumerate(ids)
            ]
        ).to(self.model.device)
        known_B, reads_B, source_B = table[:, :3].unbind(1)
        place_S = torch.arange(length, device=table.device)
        position_BS = known_B[:, None] + place_S
        past = DynamicCache()
        for keys, values in self.layers:  # in place of past.update, which uploads an empty tensor first
            layer = DynamicLayer()
            layer.keys, layer.values = keys[source_B, :, :before], values[source_B, :, :before]
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            past.layers.append(layer)
        attention = None  # where each token sees all before it, which transformers knows by itself
        if len(set(known)) + len(set(reads)) > 2 or (before and length > 1):
            is_known_BP = torch.arange(before, device=table.device) < known_B[:, None]
            is_read_BS = place_S < reads_B[:, None]
            seen_BSS = is_read_BS[:, None] & (place_S <= place_S[:, None])
            attention = additive(
                torch.cat([is_known_BP[:, None].expand(-1, length, -1), seen_BSS], 2), self.model.dtype
            )
        found = self.model(
            input_ids=table[:, 5:],
            attention_mask=attention,
            position_ids=position_BS,
            past_key_values=past,
            use_cache=True,
        ).logits
        if kept:
            room = max(kept) + 1, max(known[n] for n in kept.values()) + length
            slot_K, row_K = table[: len(kept), 3], table[: len(kept), 4]
            self.keep(slot_K, position_BS[row_K], past, row_K, before, room)
            self.ids |= {slot: ids[n] for slot, n in kept.items()}
        return found, reads

    def keep(
        self, slot_K: Tensor, place_KS: Tensor, past: DynamicCache, row_K: Tensor, before: int, room: tuple[int, int]
    ) -> None:
        """Put what was read into the slots, from which rows of the call; what stands behind a text's end is never read."""
        for number, layer in enumerate(past.layers):
            if number == len(self.layers):
                self.layers.append([layer.keys[:0, :, :0], layer.values[:0, :, :0]])
            for which, new in enumerate((layer.keys, layer.values)):
                store = self.layers[number][which] = roomy(self.layers[number][which], *room)
                store[slot_K[:, None], :, place_KS] = new[row_K, :, before:].transpose(1, 2)

    def forget(self, slots: Sequence[int] | None) -> None:
        """Drop what was kept in some slots, None: in all."""
        for slot in list(self.ids) if slots is None else slots:
            self.ids.pop(slot, None)


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


@torch.inference_mode()
def holds(model: Any, ids: list[int], pad: int) -> bool:
    """Whether the model scores a text as it does when it reads it whole, if it has read its beginning before, in another
    text; not if it looks ahead. pad: its padding token."""
    if getattr(model.config, "sliding_window", None) is not None:
        return False
    half, other = len(ids) // 2, [*ids[: len(ids) // 2], *ids[::-1][: len(ids) // 4]]
    cache = PrefixCache(model)
    cache.score([0, 1], [other, ids], pad)
    again, reads = cache.score([0], [ids], pad)
    exact = 1e-3 if model.dtype == torch.float32 else 5e-2
    whole = read_whole(model, [ids], pad).logits
    return reads[0] <= len(ids) - half and bool(torch.allclose(again, whole, atol=exact, rtol=exact))
