"""Words and n-grams of texts."""

import re


def words(text: str) -> list[str]:
    """Words (runs of letters and digits), in lower case."""
    return re.findall(r"\w+", text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words."""
    tokens = words(text)
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))
