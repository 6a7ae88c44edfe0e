"""A function in place of a reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError
from rws_cli.rewards.base import Candidate, Scores


@dataclass(frozen=True)
class RewardFunction:
    """A reward for `rws.decode` that is a function of prompts and completions.

    function: takes two lists of the same length, prompts and completions, and returns a number per completion, higher
    for better ones (a list, an array or a tensor). Each is a list of token ids; or a text, with a tokenizer. A completion
    ends before its first end token; its masks are shown as sampler.guidance.fill says, by default as the likeliest
    tokens. It must depend on nothing else, for unchanged completions are not scored again.

    statistics: mean, std, min and max of its scores, which all of sampler.guidance.normalize but `none` read.

    tokenizer: of transformers, or anything whose `decode(ids, skip_special_tokens=…)` gives text.
    """

    function: Callable[[list[Any], list[Any]], Iterable[float]]
    statistics: Statistics | None = None
    tokenizer: Any = None

    stateless: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def score(self, candidates: list[Candidate]) -> Scores:
        """Raises RunError if there is not one score per candidate."""
        read: Any = str if self.tokenizer else _ids
        prompts, completions = [read(c.example.prompt) for c in candidates], [read(c.text) for c in candidates]
        values = [float(value) for value in self.function(prompts, completions)]
        if len(values) != len(candidates):
            raise RunError(f"The reward function returned {len(values)} scores for {len(candidates)} completions.")
        return Scores(values, [0] * len(values))

    def forget(self, slots: Sequence[int] | None = None) -> None:
        """Nothing is kept."""


def _ids(text: str) -> list[int]:
    """Token ids as models/function.py writes them."""
    return [int(token) for token in text.split()]
