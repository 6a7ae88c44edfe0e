"""The shorter answer is better"""

from collections.abc import Iterator

from rws_cli.judges.base import Contest, Judge, Verdict, prefer
from rws_cli.part import part, setting


@part
class Shorter(Judge):
    margin: int = setting("characters by which an answer must be shorter", 0, min=0)

    def ask(self, contests: list[Contest]) -> Iterator[Verdict]:
        for contest in contests:
            first, second = map(len, contest.answers)
            yield Verdict(prefer(second - first, self.margin), f"{first} against {second} characters")
