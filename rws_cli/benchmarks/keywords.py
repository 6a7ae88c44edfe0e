"""Keyword-constrained generation: write one sentence that contains all given words."""

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
"""Introductions by chat models: "Sure!", or a line that ends in a colon."""
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
"""Words that start a sentence even after an abbreviation: "at 5 a.m. The dog", but not "at 5 a.m. Tom"."""


def word_list(value: Any) -> dict[str, Any]:
    """A list of words, or an object with the list as `words` and a sentence as `example`."""
    content = value if isinstance(value, dict) else {"words": value}
    return {"words": fields.some_texts(content.get("words")), "example": fields.text(content.get("example") or "")}


@part
class Keywords(DataBenchmark):
    """Correct if every word occurs as a whole word, in any case, in a single sentence that is not just a list of them.
    `partial` is the share of words that occur, at most all but one if the completion is not correct."""

    version = 2
    solved = False
    needed = {"words|answer": word_list}

    def names(self, row: Row) -> dict[str, Any]:
        return {"words": ", ".join(self.keywords(row))}

    def reference(self, row: Row) -> str:
        """A sentence by a human, if the data set has one."""
        return row["words"]["example"]

    def keywords(self, row: Row) -> list[str]:
        return row["words"]["words"]

    def grade(self, example: Example, completion: str) -> Grade:
        wanted = self.keywords(example.row)
        text = LEAD_IN.sub("", completion.strip())
        present = [word for word in wanted if _whole(word).search(text)]
        correct = len(present) == len(wanted) and len(sentences(text)) == 1 and not _is_list(text, wanted)
        hits = len(present) if correct else min(len(present), len(wanted) - 1)
        return Grade(correct, hits / max(len(wanted), 1), ", ".join(present), "whole words")


def sentences(text: str) -> list[str]:
    """The sentences of a text.

    A sentence ends with its line (unless a lower-case letter follows), or at a period, question or exclamation mark before
    a space or a letter; but not at an abbreviation, unless one of STARTERS follows, nor after an ellipsis or a closing
    quote before lower case.
    """
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
    """Whether the text, or what follows its colon, has nothing but the words, articles and conjunctions."""
    _, _, listed = text.partition(":")
    text = listed if all(_whole(word).search(listed) for word in wanted) else text
    for word in wanted:
        text = _whole(word).sub(" ", text)
    return not set(re.findall(r"[^\W\d_]+", text.casefold())) - {"a", "an", "the", "and", "or", "etc"}
