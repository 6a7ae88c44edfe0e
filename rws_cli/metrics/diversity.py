"""Diversity of completions: distinct-n (arXiv 1510.03055), self-BLEU (arXiv 1802.01886), share of unique ones."""

from collections.abc import Sequence
from typing import Any

from rws_cli.analysis.statistics import grouped, mean
from rws_cli.metrics.base import Metric
from rws_cli.metrics.text import ngrams
from rws_cli.part import part

MOST_TEXTS = 100
"""Self-BLEU, which compares each text with all others, only uses this many texts of a group."""


@part
class Diversity(Metric):
    """Computed over the completions of each question and averaged; over all completions if each question has only one."""

    inputs = ("predictions", "questions")
    measures = {
        "distinct_1": {
            "description": "words that are different",
            "unit": "share",
            "formula": "different 1-grams / all 1-grams, over the completions of a question; mean over questions",
            "better": "up",
            "paired": False,
            "source": "arXiv 1510.03055",
        },
        "distinct_2": {
            "description": "2-grams of words that are different",
            "unit": "share",
            "formula": "different 2-grams / all 2-grams, over the completions of a question; mean over questions",
            "better": "up",
            "paired": False,
            "source": "arXiv 1510.03055",
        },
        "distinct_3": {
            "description": "3-grams of words that are different",
            "unit": "share",
            "formula": "different 3-grams / all 3-grams, over the completions of a question; mean over questions",
            "better": "up",
            "paired": False,
            "source": "arXiv 1510.03055",
        },
        "distinct_4": {
            "description": "4-grams of words that are different",
            "unit": "share",
            "formula": "different 4-grams / all 4-grams, over the completions of a question; mean over questions",
            "better": "up",
            "paired": False,
            "source": "arXiv 1510.03055",
        },
        "self_bleu": {
            "description": "how alike the completions of a question are, 0 to 100",
            "unit": "BLEU",
            "formula": "mean sentence BLEU of each completion against the others; mean over questions",
            "better": "down",
            "paired": False,
            "source": "arXiv 1802.01886",
        },
        "unique": {
            "description": "completions of a question that are different",
            "unit": "share",
            "formula": "different completions / completions, outer spaces off; mean over questions",
            "better": "up",
            "paired": False,
        },
    }

    def compute(self, predictions: list[str], questions: list[str]) -> dict[str, Any]:
        by_question = groups(predictions, questions)
        return {
            **{f"distinct_{n}": mean(distinct(texts, n) for texts in by_question) for n in (1, 2, 3, 4)},
            "self_bleu": mean(map(self_bleu, by_question)),
            "unique": mean(map(unique_share, by_question)),
        }


def distinct(texts: Sequence[str], n: int) -> float | None:
    """The share of distinct n-grams over all texts; None if there are no n-grams."""
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU (sacrebleu's, 0 to 100) of each text against all others; None for fewer than two."""
    from sacrebleu import sentence_bleu

    texts = texts[:MOST_TEXTS]
    if len(texts) < 2:
        return None
    return mean(sentence_bleu(text, [*texts[:n], *texts[n + 1 :]]).score for n, text in enumerate(texts))


def unique_share(texts: Sequence[str]) -> float:
    """The share of distinct texts, ignoring surrounding whitespace."""
    return len({text.strip() for text in texts}) / len(texts)


def groups(texts: Sequence[str], questions: Sequence[str]) -> list[list[str]]:
    """The texts of each question that has several; if none has, all texts as one group."""
    several = [group for group in grouped(questions, texts).values() if len(group) > 1]
    return several or [list(texts)]
