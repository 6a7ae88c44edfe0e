"""Measures of texts: how long, how repetitive, how different from each other, and whether they hold given words."""

from __future__ import annotations

import re
from collections.abc import Sequence

NGRAMS = (1, 2, 3, 4)
MOST_TEXTS = 100
"""Self-BLEU compares each text with all others; of a larger group the first so many are compared."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"\w+", text.lower())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def repetition(text: str, n: int) -> float | None:
    """The share of a text's n-grams of words that occurred in it before (Welleck et al., arXiv 1908.04319: seq-rep-n);
    None for a text of fewer than n words."""
    found = ngrams(words(text), n)
    return 1 - len(set(found)) / len(found) if found else None


def coverage(text: str, keywords: Sequence[str]) -> float | None:
    """The share of keywords that occur as whole words, in any case; None without keywords."""
    hits = [bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in keywords]
    return sum(hits) / len(hits) if hits else None


def distinct(texts: Sequence[str], n: int) -> float | None:
    """The share of n-grams of words, over all texts, that are different (Li et al., arXiv 1510.03055); None of none."""
    found = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(found)) / len(found) if found else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU (sacrebleu's, 0 to 100) of each text against all others (Zhu et al., arXiv 1802.01886): high where
    they are alike. None for fewer than two."""
    from sacrebleu import sentence_bleu

    texts = texts[:MOST_TEXTS]
    if len(texts) < 2:
        return None
    scores = [sentence_bleu(text, [*texts[:n], *texts[n + 1 :]]).score for n, text in enumerate(texts)]
    return sum(scores) / len(scores)


def unique_share(texts: Sequence[str]) -> float:
    return len({text.strip() for text in texts}) / len(texts)


def groups(texts: Sequence[str], questions: Sequence[str]) -> list[list[str]]:
    """The answers to each question that has several; where none has, all texts as one group."""
    by_question: dict[str, list[str]] = {}
    for text, question in zip(texts, questions, strict=True):
        by_question.setdefault(question, []).append(text)
    several = [group for group in by_question.values() if len(group) > 1]
    return several or [list(texts)]


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
