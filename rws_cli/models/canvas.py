"""Canvases: completions of which some tokens stand before decoding begins (infilling, templates)."""

import re
from collections.abc import Sequence
from typing import Any

Piece = str | int | None
"""A text that stands, a number of masks, or None: as many masks as the example's reference has tokens."""

MASKS = re.compile(r"\[MASK(?::(\d{1,6}))?\]")


def read_canvas(text: str) -> tuple[Piece, ...]:
    """The pieces of a canvas written as text, in which [MASK:12] stands for twelve masks and [MASK] for one.

    Spaces count: where a word's token includes the space before it, that space belongs to its mask. Raises ValueError if
    there is no mask.
    """
    pieces: list[Piece] = []
    end = 0
    for match in MASKS.finditer(text):
        pieces += [text[end : match.start()], int(match[1] or 1)]
        end = match.end()
    pieces = [piece for piece in (*pieces, text[end:]) if piece]
    if not any(isinstance(piece, int) for piece in pieces):
        raise ValueError("has no mask: write [MASK:12] where twelve tokens are missing")
    return tuple(pieces)


def canvas_tokens(canvas: Sequence[Piece], reference: str, tokenizer: Any, mask_id: int) -> list[int]:
    """The token ids of a canvas, mask_id where a token is missing. Each text is tokenized by itself."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    ids: list[int] = []
    for piece in canvas:
        if isinstance(piece, str):
            ids += tokens(piece)
        else:
            ids += [mask_id] * (len(tokens(reference)) if piece is None else piece)
    return ids
