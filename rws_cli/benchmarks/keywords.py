"""Keyword-constrained generation: all given words in one sentence."""

import re
from typing import Any

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.base import Example, Grade, Row
from rws_cli.benchmarks.data import DataBenchmark
from rws_cli.part import part

LEAD_IN = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay|ok|yes|alright|great|got it|no problem|here you go|here it is)\b"
    r"[^\w\n]*[.!:\n]\s*|[^\n]*:\s*\n)*",
    re.IGNORECASE,
)
"""What chat models say before an answer: "Sure!", or a line that ends in a colon."""
STOP = re.compile(r"([.!?…。！？]+)([\"'”’»)\]*_]*)(?:\s+|(?=[^\W\d_]))")
WRAPPED = re.compile(r"(?<![.!?…:\s])[ \t]*\n[ \t]*(?=[a-z])")
ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|[ap]\.m|e\.g|i\.e|ph|mr|mrs|ms|dr|prof|st|mt|jr|sr|vs|etc|no|inc|ltd|co|capt|gen|sgt|lt|col|rev|sen"
    r"|gov)\.$",
    re.IGNORECASE,
)
STARTERS = set(
    re.findall(r"\w+", "A An The This That These Those There It He She They We You In On At But And So Then")
)
"""Words that start a sentence even behind an abbreviation: "at 5 a.m. The dog", but "at 5 a.m. Tom"."""


def word_list(value: Any) -> dict[str, Any]:
    """A list of words, or an object that holds it as `words`, beside a sentence as `example`."""
    given = value if isinstance(value, dict) else {"words": value}
    return {"words": fields.some_texts(given.get("words")), "example": fields.text(given.get("example") or "")}


@part
class Keywords(DataBenchmark):
    """Right if every word occurs, whole and in any case, in one sentence that is more than a list of them; `partial` is
    the share of words that occur (all but one at most if the answer is not right)."""

    version = 2
    solved = False
    needed = {"words|answer": word_list}

    def names(self, row: Row) -> dict[str, Any]:
        return {"words": ", ".join(self.keywords(row))}

    def reference(self, row: Row) -> str:
        """A human's sentence, where the data have one."""
        return row["words"]["example"]

    def keywords(self, row: Row) -> list[str]:
        return row["words"]["words"]

    def grade(self, example: Example, answer: str) -> Grade:
        wanted = self.keywords(example.row)
        text = LEAD_IN.sub("", answer.strip())
        found = [word for word in wanted if _whole(word).search(text)]
        correct = len(found) == len(wanted) and len(sentences(text)) == 1 and not _is_list(text, wanted)
        hits = len(found) if correct else min(len(found), len(wanted) - 1)
        return Grade(correct, hits / max(len(wanted), 1), ", ".join(found), "whole words")


def sentences(text: str) -> list[str]:
    """The sentences of a text. One ends with its line (unless a small letter follows), or at a full stop, question or
    exclamation mark before a space or a letter; but not at an abbreviation, unless one of STARTERS follows, nor before
    small letters behind an ellipsis or a closing quote."""
    parts = []
    for line in WRAPPED.sub(" ", text).splitlines():
        start = 0
        for stop in STOP.finditer(line):
            following = re.match(r"\w*", line[stop.end() :])[0]  # type: ignore[index]  # it matches the empty word
            if ABBREVIATION.search(line, start, stop.end(1)):
                ends = following in STARTERS
            else:
                ends = not (following[:1].islower() and (stop[2] or stop[1] in ("...", "…")))
            if ends:
                parts.append(line[start : stop.end()])
                start = stop.end()
        parts.append(line[start:])
    return [part for part in parts if re.search(r"\w", part)]


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _is_list(text: str, wanted: list[str]) -> bool:
    """Whether nothing but the words, articles and conjunctions stands in the text, or behind its colon."""
    _, _, listed = text.partition(":")
    text = listed if all(_whole(word).search(listed) for word in wanted) else text
    for word in wanted:
        text = _whole(word).sub(" ", text)
    return not set(re.findall(r"[^\W\d_]+", text.casefold())) - {"a", "an", "the", "and", "or", "etc"}
