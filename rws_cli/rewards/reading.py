"""How a reward model reads texts: whole, or from the first change since the last text of the same slot.

A call makes one upload and does not wait for the device: layouts are computed on the host, masks from lengths on the
device. Scores equal those of reading each text whole, up to rounding.
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
"""Slots grow by this many places."""


def read_whole(model: Any, ids: list[list[int]], pad: int) -> Any:
    """The model's output for texts as token ids, read whole. pad: the padding token."""
    length = max(map(len, ids))
    table = torch.tensor([[len(row), *row, *[pad] * (length - len(row))] for row in ids]).to(model.device)
    is_read_BS = torch.arange(length, device=table.device) < table[:, :1]
    attention: Tensor | None = is_read_BS.long()
    # Given a mask (B, S), transformers would wait for the device to see whether it hides anything.
    if getattr(model.config, "is_causal", True) is False and model.config._attn_implementation in ("sdpa", "eager"):
        hides = any(len(row) < length for row in ids)
        attention = additive(is_read_BS[:, None].expand(-1, length, -1), model.dtype) if hides else None
    return model(input_ids=table[:, 1:], attention_mask=attention)


class PrefixCache:
    """The last tokens of each slot, and keys and values (slots, H, L, D) of each layer, one place per token."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.ids: dict[int, list[int]] = {}
        self.layers: list[list[Tensor]] = []

    def score(self, slots: list[int | None], ids: list[list[int]], pad: int) -> tuple[Tensor, list[int]]:
        """The model's output (B, labels) for texts as token ids, and the number of tokens that it read for each.

        slots: where the last text of each is stored and this one will be; None: nowhere. pad: the padding token, with which
        no text ends.
        """
        shared = [
            0 if slot is None else common(self.ids.get(slot, []), row) for slot, row in zip(slots, ids, strict=True)
        ]
        reads = [len(row) - n for n, row in zip(shared, ids, strict=True)]
        before, length = max(shared), max(reads)
        stored = {slot: n for n, slot in enumerate(slots) if slot is not None}
        pairs = [*stored.items(), *[(0, 0)] * (len(ids) - len(stored))]
        table = torch.tensor(
            [
                [shared[n], reads[n], slots[n] or 0, *pairs[n], *row[shared[n] :], *[pad] * (length - reads[n])]
                for n, row in enumerate(ids)
            ]
        ).to(self.model.device)
        shared_B, reads_B, source_B = table[:, :3].unbind(1)
        place_S = torch.arange(length, device=table.device)
        position_BS = shared_B[:, None] + place_S
        past = DynamicCache()
        for keys, values in self.layers:  # in place of past.update, which uploads an empty tensor first
            layer = DynamicLayer()
            layer.keys, layer.values = keys[source_B, :, :before], values[source_B, :, :before]
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            past.layers.append(layer)
        attention = None  # where each token sees all before it, which transformers knows by itself
        if len(set(shared)) + len(set(reads)) > 2 or (before and length > 1):
            is_shared_BP = torch.arange(before, device=table.device) < shared_B[:, None]
            is_read_BS = place_S < reads_B[:, None]
            seen_BSS = is_read_BS[:, None] & (place_S <= place_S[:, None])
            attention = additive(
                torch.cat([is_shared_BP[:, None].expand(-1, length, -1), seen_BSS], 2), self.model.dtype
            )
        logits = self.model(
            input_ids=table[:, 5:],
            attention_mask=attention,
            position_ids=position_BS,
            past_key_values=past,
            use_cache=True,
        ).logits
        if stored:
            room = max(stored) + 1, max(shared[n] for n in stored.values()) + length
            slot_K, row_K = table[: len(stored), 3], table[: len(stored), 4]
            self.keep(slot_K, position_BS[row_K], past, row_K, before, room)
            self.ids |= {slot: ids[n] for slot, n in stored.items()}
        return logits, reads

    def keep(
        self, slot_K: Tensor, place_KS: Tensor, past: DynamicCache, row_K: Tensor, before: int, room: tuple[int, int]
    ) -> None:
        """Store new keys and values of the rows row_K in the slots slot_K. What is beyond a text's end is never read."""
        for number, layer in enumerate(past.layers):
            if number == len(self.layers):
                self.layers.append([layer.keys[:0, :, :0], layer.values[:0, :, :0]])
            for which, new in enumerate((layer.keys, layer.values)):
                store = self.layers[number][which] = roomy(self.layers[number][which], *room)
                store[slot_K[:, None], :, place_KS] = new[row_K, :, before:].transpose(1, 2)

    def forget(self, slots: Sequence[int] | None) -> None:
        """Drop the texts of some slots; None: of all."""
        for slot in list(self.ids) if slots is None else slots:
            self.ids.pop(slot, None)


def roomy(store: Tensor, slots: int, length: int) -> Tensor:
    """The store (slots, H, L, D), or a larger copy if it is too small."""
    if store.shape[0] >= slots and store.shape[2] >= length:
        return store
    slots, length = max(slots, store.shape[0]), max(-(-length // ROOM) * ROOM, store.shape[2])
    larger = store.new_zeros(slots, store.shape[1], length, store.shape[3])
    larger[: store.shape[0], :, : store.shape[2]] = store
    return larger


def common(before: list[int], now: list[int]) -> int:
    """The number of first tokens that two texts share, less than all: the last one must be read."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
    return min(len(now) - 1, shared)


@torch.inference_mode()
def holds(model: Any, ids: list[int], pad: int) -> bool:
    """Whether the model scores a text the same when its beginning was read before, in another text; a model that looks ahead
    does not. pad: the padding token."""
    if getattr(model.config, "sliding_window", None) is not None:
        return False
    half, other = len(ids) // 2, [*ids[: len(ids) // 2], *ids[::-1][: len(ids) // 4]]
    cache = PrefixCache(model)
    cache.score([0, 1], [other, ids], pad)
    again, reads = cache.score([0], [ids], pad)
    exact = 1e-3 if model.dtype == torch.float32 else 5e-2
    whole = read_whole(model, [ids], pad).logits
    return reads[0] <= len(ids) - half and bool(torch.allclose(again, whole, atol=exact, rtol=exact))
