"""One prompt of the user's own: nothing is right or wrong about its answer."""

import hashlib

from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.part import part, setting


@part
class Prompt(Benchmark):
    """The example's id is a hash of the prompt, so that random numbers depend on nothing else but the seed."""

    open_ended = True

    text: str = setting("the prompt", "???")

    def examples(self) -> list[Example]:
        return [Example(f"prompt-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}", self.text, "")]
