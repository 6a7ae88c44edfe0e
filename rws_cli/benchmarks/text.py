"""Numbers and formulas, as people and models write them."""

import re
from decimal import Decimal

MINUS = "-\u2212\u2013"
"""Characters used as a minus sign: hyphen, minus sign, en dash."""


def as_written(number: Decimal) -> str:
    """A number as people write it: 70000, not 7E+4."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{…} that is closed and not empty; None if there is none."""
    opened: list[tuple[int, bool]] = []
    content = None
    for token in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, re.DOTALL):
        if token.group().endswith("{") and token.group() != "\\{":
            opened.append((token.end(), len(token.group()) > 1))
        elif token.group() == "}" and opened:
            start, boxed = opened.pop()
            if boxed and text[start : token.start()].strip():
                content = text[start : token.start()]
    return content
