"""Marking numbers and formulas: GSM8K's rule and MATH's."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from decimal import Decimal, InvalidOperation

from rws_cli.benchmarks.base import Mark, Row

MINUS = "-\u2212\u2013"
"""A hyphen, the minus sign, and the dash that stands for it."""
FIGURES = r"\d[\d,]*(?:\.\d+)?|\.\d+"
MARKED = re.compile(rf"####[\s$€£*\\]*+([{MINUS}]?)[ $€£*\\]*+({FIGURES})")
# A dash after a letter, a digit or a bracket is not a sign: 5–10 is a range, (7)-2 a difference.
NUMBER = re.compile(rf"((?:(?<![\w)\]])[{MINUS}])?)\\?[$€£]?({FIGURES})")
PERCENT = re.compile(r"(?:\\[ ,;!])?\\?[%％]")
SECONDS = 5
"""What math-verify may take to read, and to compare."""


def mark_gsm8k(row: Row, answer: str, few_shot: bool = False) -> Mark:
    """The number behind "####", or else the last number of the answer; equal as a decimal to the reference's.

    few_shot: of several "####" the first counts, as in GSM8K's own marker, for a model that was shown solved questions
    goes on to ask itself more of them; without, the last.
    """
    found, extractor = extract_number(answer, first=few_shot)
    expected, _ = extract_number(str(row["answer"]))
    correct = found is not None and found == expected
    return Mark(correct, float(correct), "" if found is None else as_written(found), extractor)


def extract_number(text: str, first: bool = False) -> tuple[Decimal | None, str]:
    """The last number behind "####" (or the first), else the last of the text, and which of the two it is."""
    marked = MARKED.findall(text)
    found, extractor = (marked, "####") if marked else (NUMBER.findall(text), "last number")
    if not found:
        return None, "none"
    sign, figures = found[0 if marked and first else -1]
    try:
        return Decimal(("-" if sign else "") + figures.replace(",", "")), extractor
    except InvalidOperation:
        return None, "none"


def as_written(number: Decimal) -> str:
    """A number as a person writes it: 70000, not 7E+4."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def mark_math(row: Row, answer: str) -> Mark:
    r"""math-verify's parser and equality, on the last \boxed{…} or, without one, on what it takes for the answer.

    As in MATH's own marker, percent signs are dropped on both sides. Reading and comparing take `SECONDS` each at most,
    in the main thread; math-verify's alarm works in no other.
    """
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it would print the answers that it cannot read
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    box = last_box(answer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = parse(f"\\boxed{{{_plain_signs(str(row['answer']))}}}", parsing_timeout=seconds)
        found = parse(_plain_signs(answer if box is None else f"\\boxed{{{box}}}"), parsing_timeout=seconds)
        correct = bool(verify(expected, found, timeout_seconds=seconds))
    return Mark(correct, float(correct), str(found[-1]) if found else "", "math-verify")


def _plain_signs(text: str) -> str:
    """Without percent signs, and with hyphens for minus signs."""
    return PERCENT.sub("", text).translate(dict.fromkeys(map(ord, MINUS), "-"))


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
