"""Keyword-constrained generation: all given words in one sentence."""

from __future__ import annotations

import re
from typing import Any

from rws_cli.benchmarks.base import Mark, Row


def words(row: Row) -> list[str]:
    given = row["words"] if "words" in row else row["answer"]["words"]
    return [str(word) for word in given]


def names(row: Row) -> dict[str, Any]:
    return {"words": ", ".join(words(row))}


def reference(row: Row) -> str:
    """A human's sentence where the data have one, else the bare words."""
    answer = row.get("answer")
    example = answer.get("example") if isinstance(answer, dict) else None
    return example or f"{' '.join(words(row))}."


def mark(row: Row, answer: str) -> Mark:
    """Right if every word occurs, whole and in any case, and the answer is one sentence; `partial` is the share of
    words that occur (of a text of several sentences, at most all but one)."""
    wanted = words(row)
    found = [word for word in wanted if re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE)]
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", answer.strip()) if re.search(r"\w", part)]
    correct = len(found) == len(wanted) and len(sentences) == 1
    hits = len(found) if correct else min(len(found), len(wanted) - 1)
    return Mark(correct, hits / len(wanted), ", ".join(found), "whole words")
