"""One prompt of the user's own: nothing is right or wrong about its answer."""

from __future__ import annotations

import hashlib

from rws_cli.benchmarks.base import Benchmark, Example


class Prompt(Benchmark):
    """The example's id is a hash of the prompt, so that random numbers depend on nothing else but the seed."""

    name, version = "prompt", 1

    def __init__(self, text: str) -> None:
        self.text = text

    def examples(self) -> list[Example]:
        return [Example(f"prompt-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}", self.text, "")]

    def mark(self, example: Example, answer: str) -> None:
        return None
