"""Between the loop and a reward: renders tokens as text and counts the cost."""

from dataclasses import dataclass, field, replace
from typing import Any

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Sampler
from rws_cli.decoding.record import Cost, charge
from rws_cli.decoding.statistics import Statistics
from rws_cli.models.base import Denoiser
from rws_cli.rewards.base import Candidate, Reward, ask


@dataclass(frozen=True)
class Renderer:
    """Renders tokens as text for a reward. masks: whether remaining masks appear in the text ("keep") or not ("drop")."""

    denoiser: Denoiser
    masks: str
    block_length: int

    def __call__(self, example: Example, ids: list[int], progress: float, step: int) -> Candidate:
        ends = range(self.block_length, len(ids) + 1, self.block_length)
        blocks = tuple(self.denoiser.text(ids[:end], self.masks) for end in ends) if len(ends) > 1 else ()
        return Candidate(example, self.denoiser.text(ids, self.masks), progress, step, blocks)


def renderer(denoiser: Denoiser, sampler: Sampler) -> Renderer:
    """The renderer that the sampler's guidance asks for."""
    return Renderer(denoiser, sampler.guidance.shows_masks, sampler.block_length)


@dataclass
class RowScorer:
    """Scores the rows of a batch.

    examples: of each row. costs: of each row. last: the last text and score of each row, for stateless rewards.
    """

    reward: Reward
    render: Renderer
    statistics: Statistics
    examples: dict[int, Example] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    last: dict[int, tuple[str, float]] = field(default_factory=dict)

    def enter(self, examples: dict[int, Example]) -> None:
        """Called when examples enter rows."""
        self.examples |= examples
        self.reward.forget(list(examples))
        for row in examples:
            self.last.pop(row, None)

    def __call__(self, requests: dict[int, tuple[list[int], float, int]]) -> dict[int, float]:
        """Scores of some rows. requests: row → completion tokens, share of them committed, step number."""
        candidates = {row: replace(self.render(self.examples[row], *what), slot=row) for row, what in requests.items()}
        scores_by_row = {
            row: score
            for row, candidate in candidates.items()
            if self.reward.stateless and (score := self.remembered(row, candidate.text)) is not None
        }
        for row in scores_by_row:
            self.costs[row].reward_cache_hits += 1
        paying = [row for row in candidates if row not in scores_by_row]
        if not paying:
            return scores_by_row
        with charge(self.costs, paying, "reward_seconds"):
            scores = ask(self.reward, [candidates[row] for row in paying])
        for row, value, tokens in zip(paying, scores.values, scores.tokens, strict=True):
            scores_by_row[row], self.last[row] = value, (candidates[row].text, value)
            self.costs[row].reward_calls += 1
            self.costs[row].reward_tokens += tokens
        return scores_by_row

    def copy_rows(self, ancestors: list[int]) -> None:
        """Give each row the last text and score of its ancestor."""
        self.last = {row: self.last[a] for row, a in enumerate(ancestors) if a in self.last}

    def remembered(self, row: int, text: str) -> float | None:
        """The score of a row's text, if it has not changed since it was last scored."""
        last_text, score = self.last.get(row, (None, None))
        return score if last_text == text else None

    def final(self, completions: dict[int, list[int]]) -> list[float]:
        """Scores of finished completions."""
        scores = self({row: (ids, 1.0, -1) for row, ids in completions.items()})
        return [scores[row] for row in completions]

    def compared(self, completions: dict[int, list[int]], together: int) -> list[float] | None:
        """Values that order finished completions among each `together` adjacent ones; None if their scores do."""
        if not self.reward.compares:
            return None
        rows, values = list(completions), list[float]()
        candidates = [self.render(self.examples[row], ids, 1.0, -1) for row, ids in completions.items()]
        with charge(self.costs, rows, "reward_seconds"):
            for first in range(0, len(rows), together):
                scores = ask(self.reward, candidates[first : first + together], compare=True)
                values += scores.values
                for row, tokens in zip(rows[first : first + together], scores.tokens, strict=True):
                    self.costs[row].reward_tokens += tokens
        return values

    def records(self, completions: list[tuple[Example, list[int]]]) -> list[dict[str, Any]]:
        """What the reward records of finished completions, besides their scores."""
        return self.reward.records([self.render(example, ids, 1.0, -1) for example, ids in completions])

    def measured(self, completions: list[tuple[Example, list[int]]]) -> list[float]:
        """Scores of finished completions for the record; not counted as cost of decoding."""
        return ask(self.reward, [self.render(example, ids, 1.0, -1) for example, ids in completions]).values
