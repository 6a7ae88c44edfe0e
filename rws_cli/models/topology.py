"""Which tokens of a sequence attend to which: all to all, or block by block (block diffusion, arXiv 2503.09573)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Topology:
    """The attention of a model.

    block_size: None: every token attends to every other. Else the sequence is divided into blocks of this many tokens; a
    token attends to its own block and to earlier ones. 1 is causal attention.
    anchor: where blocks are counted from. "completion": its first token, so that the prompt's first block may be short;
    "sequence": the prompt's first token, so that the prompt's last tokens may share a block with the completion.
    first_token: whether the first token of each block is predicted from the blocks before it alone, in a step of its own.
    """

    block_size: int | None = None
    anchor: str = "completion"
    first_token: bool = False

    def offset(self, prompt_length: int) -> int:
        """The place of the completion's first token in its block."""
        return prompt_length % self.block_size if self.block_size and self.anchor == "sequence" else 0

    def blocks(self, prompt_length: int, gen_length: int) -> list[int]:
        """The block of each token of prompt and completion, from 0."""
        length, size = prompt_length + gen_length, self.block_size
        if size is None:
            return [0] * length
        shift = -prompt_length % size if self.anchor == "completion" else 0
        return [(n + shift) // size for n in range(length)]

    def block_ends(self, prompt_length: int, gen_length: int, block_length: int) -> list[int]:
        """Where the sampler's blocks end in the completion: after every `block_length` tokens from the start of a block of
        attention, at the end of each such block, and after its first token if that has a step of its own."""
        if self.block_size is None:
            return list(range(block_length, gen_length + block_length, block_length))
        ends = set()
        for start in range(-self.offset(prompt_length), gen_length, self.block_size):
            end = start + self.block_size
            ends |= {*range(start + block_length, end, block_length), end, *([start + 1] if self.first_token else [])}
        return [*sorted(end for end in ends if 0 < end < gen_length), gen_length]


FULL = Topology()


def visible(block_BL: Tensor, attention_BL: Tensor) -> Tensor:
    """For each token those that it attends to, (B, L, L), from the block of each column. Padding is not attended to."""
    return visible_to(block_BL, block_BL, attention_BL)


def visible_to(block_BW: Tensor, block_BK: Tensor, attention_BK: Tensor) -> Tensor:
    """For W tokens those of K columns that they attend to, (B, W, K), from their blocks. Padding is not attended to."""
    return (block_BK[:, None, :] <= block_BW[:, :, None]) & attention_BK[:, None, :].bool()


def block_numbers(topology: Topology, attention_BL: Tensor, completion: int = 0) -> Tensor:
    """The block of each column, (B, L), where the last `completion` columns hold the completion; −1 on left padding."""
    length_B = attention_BL.sum(-1).tolist()
    rows = [
        [-1] * (attention_BL.shape[1] - length) + topology.blocks(length - completion, completion)
        for length in length_B
    ]
    return torch.tensor(rows, device=attention_BL.device)
