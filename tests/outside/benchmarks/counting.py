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

    def grade(self, example: Example, completion: str) -> Grade:
        reference, words = example.reference.split(), completion.split()
        share = sum(a == b for a, b in zip(reference, words, strict=False)) / len(reference)
        return Grade(words == reference, share, " ".join(words), "words")
