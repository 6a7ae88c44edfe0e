"""Marking numbers and formulas: GSM8K's rule and MATH's."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from rws_cli.benchmarks.base import Mark, Row

NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+"


def mark_gsm8k(row: Row, answer: str) -> Mark:
    """GSM8K's marker, the number behind "####"; where there is none, the last number of the answer."""
    found, extractor = extract_number(answer)
    expected, _ = extract_number(row["answer"])
    correct = found is not None and found == expected
    return Mark(correct, float(correct), "" if found is None else str(found), extractor)


def extract_number(text: str) -> tuple[Decimal | None, str]:
    """The number that a text ends in, by GSM8K's rule, and which part of the rule found it."""
    marked = re.findall(rf"####\s*({NUMBER})", text)
    found, extractor = (marked, "####") if marked else (re.findall(NUMBER, text), "last number")
    if not found:
        return None, "none"
    try:
        return Decimal(re.sub(r"[$,]", "", found[-1])).normalize(), extractor
    except InvalidOperation:
        return None, "none"


def mark_math(row: Row, answer: str) -> Mark:
    r"""math-verify's parser and equality, on the last \boxed{…} or, without one, on what it takes for the answer."""
    from math_verify import parse, verify

    expected = parse(f"\\boxed{{{row['answer']}}}")
    found = parse(answer)
    correct = bool(verify(expected, found))
    return Mark(correct, float(correct), str(found[-1]) if found else "", "math-verify")
