"""Prefers the shorter completion"""

from collections.abc import Iterator

from rws_cli.judges.base import Judge, Pair, Verdict, prefer
from rws_cli.part import part, setting


@part
class Shorter(Judge):
    margin: int = setting("characters by which a completion must be shorter", 0, min=0)

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        for pair in pairs:
            first, second = map(len, pair.completions)
            yield Verdict(prefer(second - first, self.margin), f"{first} against {second} characters")
