"""Count on from a number"""

from random import Random

from rws_cli.benchmarks.base import Example, Generated, Grade, Split
from rws_cli.part import part, setting


@part
class Counting(Generated):
    version = 1

    count: int = setting("numbers that follow", 3, min=1)

    def make(self, rng: Random, split: Split) -> tuple[str, str]:
        first = rng.randint(0, 20)
        return f"count on from {first}", " ".join(str(first + n) for n in range(1, self.count + 1))

    def grade(self, example: Example, answer: str) -> Grade:
        wanted, found = example.reference.split(), answer.split()
        share = sum(a == b for a, b in zip(wanted, found, strict=False)) / len(wanted)
        return Grade(found == wanted, share, " ".join(found), "words")
