"""A single prompt from the user, not graded."""

import hashlib

from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.part import part, setting


@part
class Prompt(Benchmark):
    """The example's id is a hash of the prompt, so random numbers depend only on the prompt and the seed."""

    open_ended = True

    text: str = setting("the prompt", "???")

    def examples(self) -> list[Example]:
        return [Example(f"prompt-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}", self.text, "")]
