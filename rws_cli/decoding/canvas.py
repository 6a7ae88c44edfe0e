"""The canvas: prompts and partly masked responses of several rows, and what is known of each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.decoding.noise import row_key


@dataclass
class Canvas:
    """Rows being decoded, prompts padded on the left so that all responses start at the same column.

    tokens_BL: token ids, int64; masked response positions hold mask_id.
    attention_BL: True where a token is, False on padding.
    start: the column at which responses begin.
    key_B: each row's key for random numbers (noise.row_key).
    """

    tokens_BL: Tensor
    attention_BL: Tensor
    start: int
    mask_id: int
    key_B: Tensor

    @property
    def response_BG(self) -> Tensor:
        """A view of the response positions; writing to it writes the canvas."""
        return self.tokens_BL[:, self.start :]

    @property
    def masked_BG(self) -> Tensor:
        return self.response_BG == self.mask_id

    def rows(self, index: Tensor) -> Canvas:
        """A copy of some rows, for a forward pass."""
        return Canvas(self.tokens_BL[index], self.attention_BL[index], self.start, self.mask_id, self.key_B[index])


def new_canvas(
    prompts: list[list[int]],
    example_ids: list[str],
    gen_length: int,
    mask_id: int,
    pad_id: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Canvas:
    """A canvas whose responses are all masked."""
    start = max(map(len, prompts))
    tokens = torch.full((len(prompts), start + gen_length), mask_id, dtype=torch.int64)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        pad = start - len(prompt)
        tokens[row, :pad], attention[row, :pad] = pad_id, False
        tokens[row, pad:start] = torch.tensor(prompt, dtype=torch.int64)
    keys = torch.tensor([row_key(seed, example_id) for example_id in example_ids], dtype=torch.int64)
    return Canvas(tokens.to(device), attention.to(device), start, mask_id, keys.to(device))
