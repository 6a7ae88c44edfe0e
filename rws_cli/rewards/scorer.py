"""Between the loop and a reward: renders tokens as text, never scores unchanged text twice, and charges the cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Sampler
from rws_cli.decoding.guidance import Statistics
from rws_cli.decoding.record import Cost, charge
from rws_cli.models.base import Denoiser
from rws_cli.rewards.base import Candidate, Reward, ask


@dataclass(frozen=True)
class Renderer:
    """Tokens as a reward reads them. masks: whether masks that are left show in the text ("keep") or not ("drop")."""

    denoiser: Denoiser
    masks: str
    block_length: int

    def __call__(self, example: Example, ids: list[int], filled: float, step: int) -> Candidate:
        ends = range(self.block_length, len(ids) + 1, self.block_length)
        blocks = tuple(self.denoiser.text(ids[:end], self.masks) for end in ends) if len(ends) > 1 else ()
        return Candidate(example, self.denoiser.text(ids, self.masks), filled, step, blocks)


def renderer(denoiser: Denoiser, sampler: Sampler) -> Renderer:
    """As the sampler's guidance wants masks shown."""
    masks = "keep" if getattr(sampler.guidance, "fill", "") == "keep" else "drop"
    return Renderer(denoiser, masks, sampler.block_length)


@dataclass
class RowScorer:
    """Scores the rows of one batch."""

    reward: Reward
    render: Renderer
    examples: list[Example]
    costs: list[Cost]
    statistics: Statistics
    last: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        shown = [
            replace(self.render(self.examples[row], ids, share, step), slot=row)
            for row, ids, share in zip(rows, tokens_BG.tolist(), filled, strict=True)
        ]
        changed = [n for n, row in enumerate(rows) if self.last.get(row, (None,))[0] != shown[n].text]
        for n in set(range(len(rows))) - set(changed):
            self.costs[rows[n]].reward_hits += 1
        if changed:
            paying = [rows[n] for n in changed]
            with charge(self.costs, paying, "reward_seconds"):
                scores = ask(self.reward, [shown[n] for n in changed])
            for n, value, tokens in zip(changed, scores.values, scores.tokens, strict=True):
                self.last[rows[n]] = (shown[n].text, value)
                self.costs[rows[n]].reward_calls += 1
                self.costs[rows[n]].reward_tokens += tokens
        return [self.last[row][1] for row in rows]
