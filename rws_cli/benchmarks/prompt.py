"""A single prompt from the user, not graded."""

import hashlib

from rws_cli.benchmarks.base import Benchmark, Example
from rws_cli.errors import UsageError
from rws_cli.models.canvas import read_canvas
from rws_cli.part import part, setting


@part
class Prompt(Benchmark):
    """The example's id is a hash of the prompt, so random numbers depend only on the prompt and the seed."""

    open_ended = True

    text: str = setting("the prompt", "???")
    canvas: str | None = setting(
        "the completion, of which only masks are decoded: [MASK:12] stands for twelve; null: nothing but masks", None
    )

    def examples(self) -> list[Example]:
        try:
            canvas = () if self.canvas is None else read_canvas(self.canvas)
        except ValueError as error:
            raise UsageError(f"The canvas {error}.") from error
        name = f"prompt-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"
        return [Example(name, self.text, "", canvas=canvas)]
