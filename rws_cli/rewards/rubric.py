"""A language model's scores of each step of a text, by criteria from a tree (our reading of DG-PRM, 2507.17849)"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from textwrap import shorten
from typing import Any

from rws_cli.errors import RunError
from rws_cli.part import part, setting
from rws_cli.rewards.base import UNIFORM, Candidate, Reward, Scores, statistics_at
from rws_cli.rewards.criteria import (
    HIGHEST,
    LOWEST,
    Criterion,
    flat,
    fronts,
    listed,
    read_scores,
    read_selection,
    read_tree,
    shuffled,
)
from rws_cli.rewards.process import join, steps

NAMES = {"question": "", "answer": "", "before": "", "step": "", "criteria": "", "most": 0}
"""What a template can use."""

Replies = dict[bytes, int]
"""Hashes of prompts → tokens read and written for them."""


@dataclass(frozen=True)
class JudgedStep:
    """text: the step's own. analysis: why these criteria were selected. scores: 1 to 5, by criterion."""

    text: str
    analysis: str
    scores: dict[str, int]


@dataclass(frozen=True)
class Task:
    """A request about a step. number: of its candidate; criteria: in the order in which they are listed."""

    number: int
    example: str
    names: dict[str, str]
    criteria: list[Criterion]


@part
class Rubric(Reward):
    """For each step the judge first selects criteria that apply, then scores the step by each of them, from 1 to 5. A step's
    score is their mean, mapped to [0, 1]. Completions of one prompt are compared by Pareto dominance."""

    judge: Any = setting("the language model that scores; another: judge@reward.judge=…", role="judge")
    tree: str = setting("a YAML or JSON file of criteria, NAME: {description: …, children: {NAME: description}}")
    unit: str = setting(
        "a step is a line of text (step) or a block (sampler.block_length tokens)", "step", choices=("step", "block")
    )
    most_steps: int = setting("most steps of a text; all further text belongs to the last one", 4, min=1)
    window: int = setting("earlier steps whose scores the judge sees (μ)", 2, min=0)
    most_selected: int = setting("most top-level criteria that the judge selects for a step", 4, min=1)
    join: str = setting(
        "how the scores of steps are joined: their mean, the lowest, or the last",
        "mean",
        choices=("mean", "min", "last"),
    )
    select_template: str = setting(
        "the prompt that selects, with {question}, {answer}, {before}, {step}, {criteria}, {most}"
    )
    score_template: str = setting("the prompt that scores, with the same names")
    statistics: str | None = setting(
        "a JSON file of the score's statistics; null: those of a uniform distribution", None
    )

    can_be_component = False
    judged = True
    compares = True

    @property
    def stateless(self) -> bool:
        """Where blocks end depends on tokens, not on the text alone."""
        return self.unit == "step"

    def mistakes(self, key: str) -> Iterator[str]:
        if not self.judge.answers:
            yield f"{key}.judge={self.judge.name} does not answer in words: choose judge@{key}.judge=openai or local."
        for name in ("select_template", "score_template"):
            try:
                getattr(self, name).format(**NAMES)
            except (KeyError, IndexError, ValueError) as error:
                names = ", ".join(NAMES)
                yield f"{key}.{name} cannot be filled in: {error} is not a name that it can use; choose from {names}."

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        self.parents, digest = read_tree(self.tree, f"{key}.tree")
        self.model_judge = self.judge.loaded(benchmark, f"{key}.judge")
        read = {f"{key}.tree": {"sha256": digest, "criteria": len(flat(self.parents))}}
        self.source = read | self.model_judge.source  # type: ignore[misc]
        self.normalization = statistics_at(self.statistics, f"{key}.statistics") or UNIFORM
        self.replies: dict[bytes, Any] = {}
        """Replies by hash of the prompt."""
        self.last: dict[int, Replies] = {}
        """What the last text of each slot took."""
        self.comparisons: dict[str, dict[str, Any]] = {}
        """By example, the last comparison."""

    def plan(self, key: str, texts: int, compared: int, characters: int) -> dict[str, int | str]:
        requests = self.most_steps * (2 * texts + compared)
        shown = len(listed(flat(read_tree(self.tree, f"{key}.tree")[0])))
        longest = max(len(self.select_template), len(self.score_template)) + shown + characters
        price = self.judge.keyed(f"{key}.judge").price(requests, requests * longest)
        return {"judge requests, at most": requests} | ({"judging": price} if price else {})

    def score(self, candidates: list[Candidate]) -> Scores:
        """Raises RunError if a reply cannot be read."""
        judged_C, used_C = self._judge(candidates)
        values = [join([scaled(step.scores) for step in judged], self.join) for judged in judged_C]
        tokens = []
        for candidate, used in zip(candidates, used_C, strict=True):
            before = self.last.get(candidate.slot, {}) if candidate.slot is not None else {}
            tokens.append(sum(count for prompt, count in used.items() if prompt not in before))
            if candidate.slot is not None:
                self.last[candidate.slot] = used
        return Scores(values, tokens)

    def compare(self, candidates: list[Candidate]) -> Scores:
        """(Mean score over all criteria that were selected for any candidate) − (number of its Pareto front, from 0): by front,
        and by mean within a front. A criterion's score is its mean over steps. Raises RunError if a reply cannot be read."""
        judged_C, _ = self._judge(candidates)
        names = {name for judged in judged_C for step in judged for name in step.scores}
        union = [each for each in flat(self.parents) if each.name in names]
        scores_CN = [[dict(step.scores) for step in judged] for judged in judged_C]
        places, tasks = [], []
        for c, (candidate, judged) in enumerate(zip(candidates, judged_C, strict=True)):
            texts = [step.text for step in judged]
            for n, step in enumerate(judged):
                if missing := [each for each in union if each.name not in step.scores]:
                    places.append((c, n))
                    tasks.append(self._task(c, candidate, texts, judged[:n], missing))
        used_C: list[Replies] = [{} for _ in candidates]
        for (c, n), more in zip(places, self._scores(tasks, used_C), strict=True):
            scores_CN[c][n] |= more
        means_C = [
            {each.name: sum(scores[each.name] for scores in scores_N) / len(scores_N) for each in union}
            for scores_N in scores_CN
        ]
        front_C = fronts([list(means.values()) for means in means_C])
        self.comparisons[candidates[0].example.id] = {
            "particles": [{"front": n, "scores": means} for n, means in zip(front_C, means_C, strict=True)],
            "non_dominated": front_C.count(0) / len(front_C),
        }
        values = [scaled(means) - front for means, front in zip(means_C, front_C, strict=True)]
        return Scores(values, [sum(used.values()) for used in used_C])

    def records(self, candidates: list[Candidate]) -> list[dict[str, Any]]:
        """criteria: the steps of each completion with their scores, and its last comparison."""
        judged_C, _ = self._judge(candidates)
        return [
            {"criteria": {"steps": [dict(vars(step)) for step in judged], **self.comparisons.pop(c.example.id, {})}}
            for c, judged in zip(candidates, judged_C, strict=True)
        ]

    def forget(self, slots: Sequence[int] | None = None) -> None:
        if slots is None:
            self.replies.clear()
        for slot in list(self.last) if slots is None else slots:
            self.last.pop(slot, None)

    def _judge(self, candidates: list[Candidate]) -> tuple[list[list[JudgedStep]], list[Replies]]:
        """The steps of each candidate with their scores, and what they took. Steps come one after the other, because each
        request shows earlier scores; the candidates go together."""
        steps_C = [self._steps(candidate) for candidate in candidates]
        judged_C: list[list[JudgedStep]] = [[] for _ in candidates]
        used_C: list[Replies] = [{} for _ in candidates]
        for n in range(max(map(len, steps_C), default=0)):
            going = [c for c, texts in enumerate(steps_C) if n < len(texts)]
            selecting = [self._task(c, candidates[c], steps_C[c], judged_C[c], self.parents) for c in going]
            selected = self._selections(selecting, used_C)
            scoring = [
                self._task(c, candidates[c], steps_C[c], judged_C[c], criteria)
                for c, (criteria, _) in zip(going, selected, strict=True)
            ]
            for c, (_, analysis), scores in zip(going, selected, self._scores(scoring, used_C), strict=True):
                judged_C[c].append(JudgedStep(steps_C[c][n], analysis, scores))
        return judged_C, used_C

    def _steps(self, candidate: Candidate) -> list[str]:
        prefixes = candidate.blocks or (candidate.text,) if self.unit == "block" else steps(candidate.text)
        prefix = candidate.example.prefix
        return split([prefix + text for text in prefixes], self.most_steps)

    def _task(
        self,
        number: int,
        candidate: Candidate,
        texts: list[str],
        judged: list[JudgedStep],
        criteria: Sequence[Criterion],
    ) -> Task:
        """The request about the step after those that are judged."""
        text, example = texts[len(judged)], candidate.example
        scored = [f"{step.text}\n{worded(step.scores)}" for step in judged[max(len(judged) - self.window, 0) :]]
        turns = [f"({turn['role']}) {turn['content']}" for turn in example.messages()]
        names = {
            "question": "\n".join(turns) if len(turns) > 1 else example.prompt,
            "answer": "\n".join(texts[: len(judged)]) or "(nothing)",
            "before": "\n".join(scored) or "(none)",
            "step": text or "(nothing)",
        }
        return Task(number, example.id, names, shuffled(criteria, text))

    def _selections(self, tasks: list[Task], used_C: list[Replies]) -> list[tuple[list[Criterion], str]]:
        """For each task the selected criteria, with their children where finer ones are needed, and the reason."""
        selections = []
        for task, reply in zip(tasks, self._ask(self.select_template, tasks, used_C), strict=True):
            if (selection := read_selection(reply, task.criteria, self.most_selected)) is None:
                raise unreadable(task, reply, f"select 1 to {self.most_selected} of the criteria")
            criteria, fine, analysis = selection
            selections.append((flat(criteria) if fine else criteria, analysis))
        return selections

    def _scores(self, tasks: list[Task], used_C: list[Replies]) -> list[dict[str, int]]:
        """For each task the score of each of its criteria."""
        scores_T = []
        for task, reply in zip(tasks, self._ask(self.score_template, tasks, used_C), strict=True):
            if (scores := read_scores(reply, task.criteria)) is None:
                raise unreadable(task, reply, f"give each criterion a whole number from {LOWEST} to {HIGHEST}")
            scores_T.append(scores)
        return scores_T

    def _ask(self, template: str, tasks: list[Task], used_C: list[Replies]) -> list[str]:
        """The judge's replies. No prompt is sent twice; used_C: where their tokens are added."""
        prompts = [template.format(criteria=listed(t.criteria), most=self.most_selected, **t.names) for t in tasks]
        hashes = [hashlib.sha256(prompt.encode(errors="replace")).digest() for prompt in prompts]
        new = {h: prompt for h, prompt in zip(hashes, prompts, strict=True) if h not in self.replies}
        if new:
            self.replies |= zip(new, self.model_judge.reply(list(new.values())), strict=True)
        for task, h in zip(tasks, hashes, strict=True):
            used_C[task.number][h] = self.replies[h].tokens
        return [self.replies[h].text for h in hashes]


def split(prefixes: Sequence[str], most: int) -> list[str]:
    """What each prefix of a text adds to the one before it, at least one piece and at most `most`; blank pieces are left out."""
    ends = [""]
    for prefix in prefixes:
        if added(ends[-1], prefix):
            ends.append(prefix)
    ends = [*ends[:most], ends[-1]] if len(ends) > most + 1 else ends
    return [added(before, end) for before, end in pairwise(ends)] or [""]


def added(before: str, text: str) -> str:
    """What follows the part that two texts share: at the end of a block, a character may not be complete yet."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
    return text[shared:].strip()


def scaled(scores: dict[str, Any]) -> float:
    """The mean of scores, mapped to [0, 1]."""
    return (sum(scores.values()) / len(scores) - LOWEST) / (HIGHEST - LOWEST)


def worded(scores: dict[str, int]) -> str:
    return f"(scores: {', '.join(f'{name} {score}' for name, score in scores.items())})"


def unreadable(task: Task, reply: str, what: str) -> RunError:
    return RunError(f'The judge\'s reply about example {task.example} does not {what}: "{shorten(reply, 200)}".')
