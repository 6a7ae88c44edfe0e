"""Random numbers that depend on what they are for, and on nothing else.

A number is a hash of (row key, step, position, token), so that a row draws the same ones alone or in any batch, at any
place in it, after any resume, and on any device. The hash is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
"""

import hashlib

import torch
from torch import Tensor


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


_GAMMA, _C1, _C2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 shifts are arithmetic in torch."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's output function on int64 (any shape), arithmetic modulo 2^64."""
    x = x + _GAMMA
    x = (x ^ _shift_right(x, 30)) * _C1
    x = (x ^ _shift_right(x, 27)) * _C2
    return x ^ _shift_right(x, 31)


def row_key(seed: int, example_id: str) -> int:
    """The key of an example's random numbers, a signed 64-bit integer."""
    digest = hashlib.sha256(f"{seed}/{example_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def uniform(key_N: Tensor, step: Tensor | int, position_N: Tensor, count: int) -> Tensor:
    """Float64 uniforms in (0, 1), shape (N, count): one for each counter 0 … count − 1 at each (key, step, position)."""
    base = mix(mix(key_N + step) + position_N)
    counter = torch.arange(count, device=key_N.device)
    bits = _shift_right(mix(base[:, None] + mix(counter)), 11)
    return (bits.double() + 0.5) * 2.0**-53


def everywhere(key_B: Tensor, step_B: Tensor, length: int, counter: int) -> Tensor:
    """The uniforms of one counter at each of `length` positions, shape (B, length)."""
    key_N = key_B.repeat_interleave(length)
    position_N = torch.arange(length, device=key_B.device).repeat(len(key_B))
    step_N = step_B.repeat_interleave(length)
    return uniform(key_N, step_N, position_N, counter + 1)[:, counter].view(-1, length)
