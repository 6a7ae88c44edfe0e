"""N completions, of which the one with the highest reward is returned"""

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search


@part
class BestOfN(Search):
    particles: int = setting("completions of one prompt that are decoded in parallel", 4, min=1)

    needs = ("reward",)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        return self.chosen(step.final_scores(rows), step, rows, compared=step.compared(rows, self.particles))

    def calls(self, steps: int) -> int:
        return 1
