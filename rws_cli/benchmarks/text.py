"""Numbers and formulas as people and models write them."""

import re
from decimal import Decimal

MINUS = "-\u2212\u2013"
"""A hyphen, the minus sign, and the dash that stands for it."""


def as_written(number: Decimal) -> str:
    """A number as a person writes it: 70000, not 7E+4."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{…} that is closed and not empty."""
    opened: list[tuple[int, bool]] = []
    found = None
    for token in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, re.DOTALL):
        if token.group().endswith("{") and token.group() != "\\{":
            opened.append((token.end(), len(token.group()) > 1))
        elif token.group() == "}" and opened:
            start, boxed = opened.pop()
            if boxed and text[start : token.start()].strip():
                found = text[start : token.start()]
    return found
