"""Canvases as text and as tokens."""

from __future__ import annotations

import pytest
from support import word_tokenizer

from rws_cli.models.canvas import canvas_tokens, read_canvas


def test_a_canvas_is_read_from_text() -> None:
    assert read_canvas("a [MASK:3]\nb[MASK][MASK:2] [MASK:x]") == ("a ", 3, "\nb", 1, 2, " [MASK:x]")
    assert read_canvas("[MASK:12]") == (12,)
    for without in ("", "a b", "[MASK:x]", "[MASK:0]"):
        with pytest.raises(ValueError, match="has no mask"):
            read_canvas(without)


def test_its_tokens() -> None:
    tokenizer = word_tokenizer(["?", "a", "b", "mask"], mask_token="mask")
    assert canvas_tokens(("a b", 2, "b", None), "a b a", tokenizer, 3) == [1, 2, 3, 3, 2, 3, 3, 3]
    assert canvas_tokens(("a mask b",), "", tokenizer, 3) == [1, 3, 2]  # the model's own mask token is a mask too
