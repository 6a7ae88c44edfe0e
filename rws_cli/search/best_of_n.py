"""N answers, the one of highest reward"""

from rws_cli.decoding.step import Step
from rws_cli.part import part, setting
from rws_cli.search.base import Search


@part
class BestOfN(Search):
    particles: int = setting("answers to one prompt that are decoded side by side", 4, min=1)

    needs = ("reward",)

    def finish(self, step: Step, rows: list[int]) -> tuple[list[int], list[list[float]]]:
        return self.chosen(step.final_scores(rows), step, rows)

    def calls(self, steps: int) -> int:
        return 1
