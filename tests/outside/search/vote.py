"""Several completions, of which the one most like the others is returned"""

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search


@part
class Vote(Search):
    particles: int = setting("completions of one prompt that are decoded side by side", 3, min=1)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        """A completion's score is the share of its tokens that the others have at the same position, on average."""
        scores = []
        for first in range(0, len(rows), self.particles):
            tokens_KG = step.tokens_BG[rows[first : first + self.particles]]
            alike_KKG = tokens_KG[:, None] == tokens_KG
            scores += alike_KKG.double().mean((1, 2)).tolist()
        return self.chosen(scores, step, rows)
