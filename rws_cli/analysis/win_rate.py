"""Win rates from verdicts in both orders, with intervals, overall and by GOD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rws_cli.analysis.statistics import grouped, mean, wilson

QUINTILES = 5


@dataclass(frozen=True)
class WinRate:
    """The share of questions that are won; a tie counts half. Several answers to a question are averaged first.

    interval: Wilson's, at 95 %, over questions. wins, ties, losses count answers; disagreements are those ties where
    the judge preferred whichever answer came first, or whichever second; unreadable verdicts count nowhere else.
    unjudged: answers that lack a verdict in one order or both, as a judge that gave up leaves them.
    by_god: the same by fifths of the questions, those with the lowest GOD of the judged answers first.
    """

    rate: float
    interval: tuple[float, float]
    questions: int
    wins: int
    ties: int
    losses: int
    disagreements: int
    unreadable: int
    unjudged: int
    by_god: list[Quintile]


@dataclass(frozen=True)
class Quintile:
    rate: float
    interval: tuple[float, float]
    questions: int
    god: tuple[float, float]


def outcome(shown_second: float, shown_first: float) -> float:
    """1 if a completion was preferred in both orders, 0 if the other one was, else 0.5: a preference for an order
    says nothing."""
    both = shown_second + shown_first
    return 1.0 if both == 2 else 0.0 if both == 0 else 0.5


def win_rate(
    verdicts: Sequence[tuple[str, tuple[float | None, float | None], float | None]], unjudged: int = 0
) -> WinRate | None:
    """verdicts: for each judged answer its question, how much it was preferred when shown second and first, and its GOD.
    unjudged: answers without verdicts.

    None if no verdict can be read.
    """
    read = [(question, (a, b), god) for question, (a, b), god in verdicts if a is not None and b is not None]
    if not read:
        return None
    scores = [outcome(*sides) for _, sides, _ in read]
    questions = [question for question, *_ in read]
    won = {question: sum(found) / len(found) for question, found in grouped(questions, scores).items()}
    gods = {question: mean(found) for question, found in grouped(questions, [god for *_, god in read]).items()}
    return WinRate(
        rate=sum(won.values()) / len(won),
        interval=wilson(sum(won.values()), len(won)),
        questions=len(won),
        wins=scores.count(1.0),
        ties=scores.count(0.5),
        losses=scores.count(0.0),
        disagreements=sum({*sides} == {0.0, 1.0} for _, sides, _ in read),
        unreadable=len(verdicts) - len(read),
        unjudged=unjudged,
        by_god=_by_god([(god, won[question]) for question, god in gods.items() if god is not None]),
    )


def _by_god(questions: list[tuple[float, float]]) -> list[Quintile]:
    """Fifths as equal as can be; equal GODs keep the order of the questions. None of them where there are fewer than five."""
    ordered = sorted(questions, key=lambda pair: pair[0])
    n = len(ordered)
    if n < QUINTILES:
        return []
    parts = [ordered[n * k // QUINTILES : n * (k + 1) // QUINTILES] for k in range(QUINTILES)]
    return [
        Quintile(
            rate=sum(won for _, won in part) / len(part),
            interval=wilson(sum(won for _, won in part), len(part)),
            questions=len(part),
            god=(part[0][0], part[-1][0]),
        )
        for part in parts
    ]
