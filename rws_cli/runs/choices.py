"""Examples with choices: what is scored, and the line of samples.jsonl that is made of it."""

from dataclasses import asdict
from typing import Any

from rws_cli.analysis.order import order_statistics
from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import Config
from rws_cli.decoding.record import Cost
from rws_cli.likelihood.score import LogLikelihood, Pair, difference_error
from rws_cli.models.base import PreparedModel


def encode_choices(model: PreparedModel, example: Example) -> list[Pair]:
    """An example's choices as token ids, each after its prompt. Rivals share their random numbers; whether decoding would
    give a choice is asked only of one without rivals."""
    contexts = example.contexts or (example.prompt,) * len(example.choices)
    return [
        Pair(*model.encode_choice(context, choice, example.history, **example.context), example.id, len(contexts) == 1)
        for context, choice in zip(contexts, example.choices, strict=True)
    ]


def choice_sample(config: Config, example: Example, pairs: list[Pair], scores: list[LogLikelihood]) -> dict[str, Any]:
    """A line of samples.jsonl about an example with choices, not graded yet. Its completion is the likeliest choice."""
    divisors = {
        "none": [1] * len(pairs),
        "tokens": [max(1, len(pair.continuation)) for pair in pairs],
        "bytes": [max(1, len(choice.strip().encode())) for choice in example.choices],
    }[config.likelihood.normalize]
    values = [score.log_p / divisor for score, divisor in zip(scores, divisors, strict=True)]
    chosen = max(range(len(values)), key=values.__getitem__)
    order = order_statistics([], [], config.sampler.block_length)
    return {
        "id": example.id,
        "question": example.question or example.id,
        "history": example.history,
        "prompt": example.prompt,
        "completion": example.choices[chosen],
        "reference": example.reference,
        "grade": None,
        "reward": None,
        "measures": {},
        "order": order,
        "order_with_eos": order,
        "guidance": None,
        "tokens": pairs[chosen].continuation,
        "length": len(pairs[chosen].continuation),
        "committed": 0,
        "remasked": 0,
        "edited": 0,
        "near_ties": 0,
        "particles": [],
        "choices": [
            {
                "text": choice,
                "log_likelihood": score.log_p,
                "standard_error": score.standard_error,
                "tokens": len(pair.continuation),
                "divisor": divisor,
                "difference_error": difference_error(score, scores[chosen], divisor, divisors[chosen]),
                "is_greedy": score.is_greedy,
            }
            for choice, score, pair, divisor in zip(example.choices, scores, pairs, divisors, strict=True)
        ],
        "cost": asdict(sum((score.cost for score in scores), Cost())),
    }
