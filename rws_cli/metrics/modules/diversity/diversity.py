"""How different answers are: distinct-n, self-BLEU and the share of unique ones, among the answers to one question.

Where each question has one answer, among all answers. Figures are means over questions.
"""

import datasets
import evaluate

from rws_cli.metrics.text import NGRAMS, distinct, groups, mean, self_bleu, unique_share


class Diversity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Li et al., arXiv 1510.03055 (distinct-n); Zhu et al., arXiv 1802.01886 (self-BLEU)",
            inputs_description="",
            features=datasets.Features({"predictions": text, "questions": text}),
        )

    def _compute(self, predictions: list[str], questions: list[str]) -> dict:
        grouped = groups(predictions, questions)
        return {
            **{f"distinct_{n}": mean([distinct(texts, n) for texts in grouped]) for n in NGRAMS},
            "self_bleu": mean([self_bleu(texts) for texts in grouped]),
            "unique": mean([unique_share(texts) for texts in grouped]),
        }
