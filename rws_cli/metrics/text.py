"""Words of texts."""

import re
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"\w+", text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words."""
    tokens = words(text)
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
