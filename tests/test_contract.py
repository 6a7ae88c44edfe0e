"""What every part keeps, whoever wrote it: found through the registry, here and in tests/outside, so that a new part is
held to it with no edit. What single parts do is tested beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from scripted_judge import CRITERIA, Scripted
from support import REWARD_WORDS, FakeDenoiser, Scored, load_classifier, make_sampler, part, save_reward
from torch import Tensor

from rws_cli import registry
from rws_cli.analysis.measures import of_metric
from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.benchmarks.base import Example, Generated
from rws_cli.config.catalog import CONF, choices, external_folders
from rws_cli.config.composing import compose
from rws_cli.config.schema import Runtime
from rws_cli.decoding.batch import PROMPT_FIELDS, Prompt, prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion
from rws_cli.decoding.statistics import Statistics
from rws_cli.decoding.step import Prediction, Step
from rws_cli.errors import UsageError
from rws_cli.guidance.entrgi import token_map
from rws_cli.part import part as graded
from rws_cli.rewards.base import Candidate, ask
from rws_cli.search.base import Search

OUTSIDE = str(Path(__file__).parent / "outside")
DECODE = {
    "order": "order",
    "schedule": "schedule",
    "guidance": "guidance",
    "remasking": "remasking",
    "search": "search",
}
"""Roles of parts that decode → where a sampler has them."""
NEEDS = {"reward", "statistics", "gradients", "weights", "hidden_states", "answers"}
INPUTS = {"predictions", "references", "prompts", "questions", "keywords", "histories", "tokens", "choices"}
GEN, BLOCK, QUESTIONS = 8, 4, 3
TEMPERATURE = 0.9


def every(*roles: str) -> list[Any]:
    """Every part of some roles, as parameters of a test."""
    registry.set_folders([OUTSIDE])
    found = [pytest.param(role, name, id=f"{role}-{name}") for role in roles for name in registry.available(role)]
    registry.set_folders([])
    return found


@pytest.fixture(autouse=True)
def _outside() -> Iterator[None]:
    registry.set_folders([OUTSIDE])
    yield
    registry.set_folders([])


# --- what some parts need, which is not here ------------------------------------------------------------------------


def frequencies(order: Any) -> None:
    order.use(torch.linspace(0.01, 0.2, 12, dtype=torch.float64))


def scales(guidance: Any) -> None:
    guidance.use({f"row-{n}": {0: 1.0 + n, 2: 0.5, 5: 2.0 - n / 4} for n in range(QUESTIONS)})


def gradients(guidance: Any) -> None:
    guidance.top_p, guidance.reward = 1.0, gradients.reward  # type: ignore[attr-defined]
    words = [f"w{n}" for n in range(10)] + ["<end>", "[mask]"]
    vocabulary = {word: n for n, word in enumerate(words)}
    guidance.use(token_map(vocabulary, {word: n for n, word in enumerate(REWARD_WORDS)}, len(words)), (10,))


@pytest.fixture(scope="module", autouse=True)
def _reward_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    gradients.reward = load_classifier(save_reward(tmp_path_factory.mktemp("reward")))  # type: ignore[attr-defined]


FAKES: dict[tuple[str, str], tuple[dict[str, Any], Callable[[Any], None]]] = {
    ("order", "pc"): ({}, frequencies),  # reads a file that was counted with the model's tokenizer
    ("guidance", "recorded_scale"): ({"run": "none", "how": "own"}, scales),  # reads a finished run
    ("guidance", "entrgi"): ({"steps": 1}, gradients),  # takes gradients of a reward model
}
"""Parts that `load` reads files or a model for → settings, and what stands in for `load`."""
QUICK = {
    ("schedule", "refine"): {"rounds": 3},
    ("schedule", "tolerator"): {"rounds": 3, "settled": 2, "temperature": None},
    ("search", "e_smc"): {"particles": 3, "every": 2},
    ("schedule", "core"): {"every": 1, "protected": 1, "least": 0.0},
    ("search", "hex"): {"particles": 3},
}
"""Settings of parts that take many steps or particles, or would do nothing in small blocks."""
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("schedule", "remdm"): {"block_length": GEN, "steps": 12},  # without steps to spare it masks almost nothing again
}
"""Settings of the sampler without which a part would do little here."""
APART = {
    ("guidance", "recorded_scale"): "follows one example's decoding and refuses a search, which alone copies rows",
}
"""Parts whose rows are never copied."""
JUDGED = {"rubric": [f"reward.tree={CRITERIA}"]}
"""Kinds of rewards that ask a judge, which a scripted one stands in for → what else they need."""
CHOICES = {"classifier": "tiny"}
"""Kinds of rewards that need a checkpoint → the choice that has a bundled one."""


# --- decoding with one part -----------------------------------------------------------------------------------------


class Tokens:
    """A reward of tokens, and what it was asked."""

    statistics = Statistics(mean=30.0, std=10.0, min=0.0, max=90.0)

    def __init__(self) -> None:
        self.examples = [Example(f"row-{n}", f"w{n}", "") for n in range(99)]
        self.asked = 0

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        self.asked += len(rows)
        return [float((row * torch.arange(1, GEN + 1) % 13).sum()) for row in tokens_BG]


@dataclass
class Decoding:
    """A decoder with the part, and what watches over it."""

    decoder: Decoder
    part: Any
    scorer: Tokens
    questions: list[int]

    def completions(self, most: int, at: Callable[[int], None] = lambda step: None) -> list[Completion]:
        """By question; fails if there are more steps than `most`. at: called after each step, with its number."""
        found, number = [], 0
        while self.decoder.enter():
            self.decoder.step()
            at(number)
            found += self.decoder.finished()
            number += 1
            assert number <= most, "blocks do not end"
        assert sorted(one.number for one in found) == list(range(len(self.questions)))
        return sorted(found, key=lambda one: one.number)


def made(role: str, name: str) -> Any:
    settings, prepare = FAKES.get((role, name), (QUICK.get((role, name), {}), lambda part: None))
    found = part(role, name, **settings)
    prepare(found)
    return found


def decoding(
    role: str,
    name: str,
    questions: Any = range(QUESTIONS),
    rows: int | None = None,
    seed: int = 3,
    fixed: Any = None,
    speculate: int | str = 0,
    **settings: Any,
) -> Decoding:
    """Some questions, decoded with a part that is the only one out of the ordinary; rows: questions side by side."""
    one = made(role, name)
    beside = {"block_length": BLOCK, "temperature": TEMPERATURE} | BESIDE.get((role, name), {}) | settings
    sampler = make_sampler(GEN, **beside, **{DECODE[role]: one})
    prompts = []
    for question in questions:
        for particle in range(sampler.search.particles):
            ids = [1 + (question + n) % 9 for n in range(question + 1)]
            row = prompt_of(ids, seed, f"row-{question} {particle}")
            more = fixed[question] if fixed else {"block_ends": sampler.search.block_ends(particle, GEN)}
            prompts.append(Prompt(ids, row.key, **more))
    side_by_side = None if rows is None else rows * sampler.search.particles
    model = FakeDenoiser(seed=5)
    model.head *= 0.3  # so that it is unsure
    decoder = Decoder(model, prompts, sampler, rows=side_by_side, speculate=speculate)
    scorer = Tokens()
    decoder.scorer = Scored(scorer, Tokens.statistics, decoder.costs)
    chosen = list(questions)
    k = sampler.search.particles

    def enter(entering: dict[int, int]) -> None:
        asked = {row: chosen[number // k] for row, number in entering.items()}
        decoder.scorer.costs = decoder.costs
        for row, question in asked.items():
            scorer.examples[row] = Example(f"row-{question}", f"w{question}", "")
        sampler.guidance.begin({row: f"row-{question}" for row, question in asked.items()})
        sampler.search.begin({row: lambda tokens: str(tokens[0] % 3) for row in asked})

    decoder.on_enter = enter
    return Decoding(decoder, one, scorer, chosen)


def most_steps(found: Decoding, rows: int = QUESTIONS) -> int:
    """The most steps of the whole loop; rows: questions side by side."""
    sampler = found.decoder.sampler
    blocks = max(sampler.blocks, *(len(prompt.block_ends or ()) for prompt in found.decoder.prompts))
    steps = sampler.schedule.first_steps + blocks * sampler.schedule.steps * (
        1 + sampler.remasking.rounds * sampler.remasking.window
    )
    return steps * sampler.search.sweeps * -(-len(found.questions) // rows)


EXACT = ("step", "position", "token", "remasked_at", "pairs", "reversals", "changed_selection")


def outcome(one: Completion) -> tuple[Any, ...]:
    """What rounding may not change."""
    return one.tokens, [getattr(one.trace, name) for name in EXACT], one.cost.mdm_passes, one.cost.reward_calls


def assert_alike(found: list[Completion], others: list[Completion]) -> None:
    for one, other in zip(found, others, strict=True):
        assert outcome(one) == outcome(other)
        for name in ("confidence", "scale", "reward"):
            mine, theirs = getattr(one.trace, name), getattr(other.trace, name)
            assert mine == theirs or mine == pytest.approx(theirs, rel=1e-4), name


def by_itself(order: Any) -> Callable[..., Tensor]:
    """An order's rule, which must give the positions of each row the scores that they have without the others."""
    rule = order.score

    def score(prediction: Prediction, step: Step) -> Tensor:
        score_N = rule(prediction, step)
        assert (score_N.dtype, score_N.shape) == (torch.float64, prediction.row_N.shape)
        for row in prediction.row_N.unique():
            of_row = prediction.row_N == row
            own = Prediction(*(getattr(prediction, f.name)[of_row] for f in fields(Prediction)))
            assert torch.allclose(rule(own, step), score_N[of_row], rtol=1e-12)
        return score_N

    return score


STAGGERED = [{}, {"block_ends": [2, 8]}, {"block_ends": [3, 5, 8]}]
"""So that rows are at different steps of their blocks."""


@pytest.mark.parametrize(("role", "name"), every(*DECODE))
def test_rows_are_the_same_in_any_batch(role: str, name: str) -> None:
    """Alone, beside two others, and in a row that others had before."""
    beside = decoding(role, name, fixed=STAGGERED)
    beside.decoder.sampler.order.score = by_itself(beside.decoder.sampler.order)
    together = beside.completions(most_steps(beside))
    in_turn = decoding(role, name, rows=1, fixed=STAGGERED)
    assert_alike(in_turn.completions(most_steps(in_turn, 1)), together)
    two = decoding(role, name, questions=[2, 0], fixed=STAGGERED)
    assert_alike(two.completions(most_steps(two)), [together[2], together[0]])
    assert len({tuple(one.tokens) for one in together}) > 1  # they could differ


@pytest.mark.parametrize(("role", "name"), every(*DECODE))
@pytest.mark.parametrize("temperature", [0.0, TEMPERATURE])
def test_blocks_end_and_what_a_part_declares_holds(role: str, name: str, temperature: float) -> None:
    """No mask is left, blocks follow each other, and nothing is drawn, masked again or asked of a reward undeclared."""
    if role == "search" and temperature == 0 and part(role, name).particles > 1:
        pytest.skip("particles would be equal")
    found = decoding(role, name, temperature=temperature)
    completions = found.completions(most_steps(found))
    needs = {"reward"} & set(found.part.needs)
    assert needs or not found.scorer.asked
    for one in completions:
        assert 11 not in one.tokens
        assert dict(zip(one.trace.position, one.trace.token, strict=True)) == dict(enumerate(one.tokens))
        assert one.trace.step == sorted(one.trace.step)
        commits = [
            again for again, edited in zip(one.trace.remasked_at, one.trace.edited_from, strict=True) if edited is None
        ]
        assert found.part.remasks or commits == [None] * GEN
        assert getattr(found.part, "edits", False) or one.trace.edited_from == [None] * len(one.trace.step)
    if not (temperature or found.part.draws):
        other = decoding(role, name, temperature=temperature, seed=4)
        assert_alike(other.completions(most_steps(other)), completions)


GIVEN = [
    {"fixed": {0: 5, 3: 7}, "length": 6},
    {"fixed": {4: 8, 5: 9, 6: 3, 7: 6}},  # a whole block of 4
    {"length": 7, "block_ends": [3, 7]},
]


@pytest.mark.parametrize(("role", "name"), every(*DECODE))
def test_given_and_closed_positions_are_never_chosen(role: str, name: str) -> None:
    """Neither by the loop, which holds them, nor by the part, which is watched."""
    if getattr(made(role, name), "grows", False):
        pytest.skip("a schedule that inserts tokens moves those behind them; prepared runs refuse it a canvas")
    found = decoding(role, name, fixed=GIVEN)
    sampler, batch = found.decoder.sampler, found.decoder.batch
    schedule, review = sampler.schedule, sampler.remasking

    def watched(function: Callable[..., Any], closed: Callable[..., Tensor]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            chosen_BG = function(*arguments)
            assert chosen_BG is None or not (chosen_BG & closed(*arguments)).any(), function.__qualname__
            return chosen_BG

        return call

    schedule.choose = watched(schedule.choose, lambda ranking, step: ~(ranking.ranked_BG & step.free_BG))
    schedule.candidates = watched(schedule.candidates, lambda step: ~step.free_BG)
    schedule.remask_before = watched(schedule.remask_before, lambda step: ~step.free_BG)
    schedule.remask_after = watched(schedule.remask_after, lambda chosen_BG, shadow_BG, step: ~step.free_BG)
    review.again = watched(review.again, lambda step, rows_B, number_B: ~(step.free_BG & rows_B[:, None]))
    completions = found.completions(most_steps(found))
    for one, about in zip(completions, GIVEN, strict=True):
        fixed, end = about.get("fixed", {}), about.get("length", GEN)
        assert {position: one.tokens[position] for position in fixed} == fixed
        assert set(one.trace.position) == set(range(end)) - set(fixed)
        assert 11 not in one.tokens[:end]
    alone = decoding(role, name, fixed=GIVEN, questions=[0])
    assert_alike(alone.completions(most_steps(alone)), completions[:1])
    assert batch.live_B.any().item() is False


@pytest.mark.parametrize(("role", "name"), every(*DECODE))
def test_state_survives_a_copy_of_rows(role: str, name: str) -> None:
    """Rows that trade places in the middle, with their prompts, end as they would have."""
    if (role, name) in APART:
        pytest.skip(APART[role, name])
    plain, moved = decoding(role, name, fixed=STAGGERED), decoding(role, name, fixed=STAGGERED)
    decoder, k = moved.decoder, moved.decoder.particles
    turn = torch.arange(k * QUESTIONS).roll(k)

    def trade(step: int) -> None:
        if step != 1:
            return
        batch = decoder.batch
        theirs = {name: getattr(batch, name)[turn] for name in PROMPT_FIELDS}
        decoder.copy_rows(turn)
        for name, value in theirs.items():
            setattr(batch, name, value)
        for held in (decoder.traces, decoder.row_states, decoder.lengths, decoder.costs, moved.scorer.examples):
            held[: len(turn)] = [held[row] for row in turn.tolist()]
        decoder.completions, decoder.done = (
            decoder.completions[turn.numpy()],
            [decoder.done[row] for row in turn.tolist()],
        )

    assert_alike(moved.completions(most_steps(moved), trade), plain.completions(most_steps(plain)))


@graded
class Back(Search):
    """Saves rows after their first step, and sets every other one back after its second, once."""

    rolls_back = True

    def saves(self, step: Step) -> Tensor:
        return step.memory.get("search.steps", 0, dtype=torch.int64) == 1

    def rolled_back(self, step: Step) -> Tensor:
        steps_B = step.memory.get("search.steps", 0, dtype=torch.int64)
        steps_B += 1
        return (steps_B == 2) & step.live_B & (torch.arange(len(steps_B)) % 2 == 0)


@pytest.mark.parametrize(("role", "name"), every(*(role for role in DECODE if role != "search")))
def test_state_is_saved_and_restored(role: str, name: str) -> None:
    """Random numbers depend on a step's number, so a row that is set back commits the same tokens again."""
    plain, back = decoding(role, name), decoding(role, name, search=Back(kind="back"))
    expected, found = plain.completions(most_steps(plain)), back.completions(2 * most_steps(back))
    assert [outcome(one)[:2] for one in found] == [outcome(one)[:2] for one in expected]
    more = [one.cost.mdm_passes - other.cost.mdm_passes for one, other in zip(found, expected, strict=True)]
    assert more[1] == 0
    assert more[0] > 0 or getattr(back.part, "lookahead", 0)  # the canvas may still be there


def assert_lossless(plain: list[Completion], drafted: list[Completion]) -> None:
    for one, other in zip(plain, drafted, strict=True):
        assert one.tokens == other.tokens
        assert [getattr(one.trace, name) for name in EXACT] == [getattr(other.trace, name) for name in EXACT]
        assert one.trace.confidence == pytest.approx(other.trace.confidence, rel=1e-4)
        assert one.cost.reward_calls == other.cost.reward_calls
        assert other.cost.mdm_passes <= one.cost.mdm_passes == one.cost.mdm_rows
        assert other.cost.mdm_passes <= other.cost.mdm_rows


@pytest.mark.parametrize(
    ("depth", "rows", "seed"),
    [(4, None, 5), *(pytest.param(*several, marks=pytest.mark.slow) for several in ((2, 1, 3), (8, 2, 7)))],
)
@pytest.mark.parametrize(("role", "name"), every(*DECODE))
def test_drafts_change_nothing(role: str, name: str, depth: int, rows: int | None, seed: int) -> None:
    if made(role, name).not_drafted:
        return
    plain = decoding(role, name, rows=rows, seed=seed)
    drafted = decoding(role, name, rows=rows, seed=seed, speculate=depth)
    most = most_steps(plain, rows or QUESTIONS)
    assert_lossless(plain.completions(most), drafted.completions(most))


# --- all parts ------------------------------------------------------------------------------------------------------


def yaml_texts() -> Iterator[str]:
    for folder in (CONF, *external_folders().values()):
        for file in folder.rglob("*.yaml"):
            yield re.sub(r"#.*", "", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("role", "name"), every(*registry.ROLES))
def test_a_part_says_what_it_is_and_what_can_be_set(role: str, name: str) -> None:
    """Its kind is its file's name. Every setting has a meaning, a type, and a default that it may have: at the part, or,
    where there is none for all, in a file of conf/ that chooses the part."""
    source, cls = registry.available(role)[name], registry.load(role, name, role)
    assert (source.name, cls.part_module) == (source.file.stem, f"{cls.__module__}")
    assert cls.__module__.endswith(f".{registry.ROLES[role]}.{name}")
    assert len(source.title) > 10
    hints = get_type_hints(cls)
    for setting in source.settings.values():
        if setting.name in ("kind", "name"):
            continue
        assert len(setting.meaning) >= 3, setting.name
        assert setting.name in hints
        if setting.default is MISSING:
            chosen = [text for text in yaml_texts() if re.search(rf"\b(kind: {name}|{role}: {name}|{name}:)", text)]
            assert any(re.search(rf"\b{setting.name}\b", text) for text in chosen), setting.name
        elif setting.default not in (None, "???"):  # ???: whoever chooses it must set it
            about = setting.allowed
            assert "choices" not in about or setting.default in about["choices"]
            assert "min" not in about or setting.default >= about["min"]
            assert "max" not in about or setting.default <= about["max"]
            assert "above" not in about or setting.default > about["above"]


@pytest.mark.parametrize(("role", "name"), every(*registry.ROLES))
def test_what_a_part_declares_is_among_the_known_words(role: str, name: str) -> None:
    cls = registry.load(role, name, role)
    (cache,) = (f for f in fields(Runtime) if f.name == "cache")
    assert set(cls.caches) <= set(cache.metadata["choices"]) - {"none"}
    needs = made(role, name).needs if isinstance(cls.needs, property) else cls.needs
    assert set(needs) <= NEEDS
    if role == "metric":
        assert isinstance(cls.inputs, property) or set(cls.inputs) <= INPUTS  # or those of a module that it loads
        measures = of_metric(name, name)
        assert [measure.name for measure in measures] == [f"{name}.{key}" for key in cls.measures]
        assert all(len(measure.description) > 5 for measure in measures)
    if role == "benchmark":
        assert cls.version >= 1
    if role == "model":
        assert cls.shift in (0, 1)


def choice_of(kind: str) -> Any:
    """The reward of a choice of that kind which can be loaded here."""
    first = CHOICES.get(kind, kind)
    for choice in sorted(choices("reward"), key=lambda name: name != first):
        try:
            more = JUDGED.get(choice, [])
            reward = compose(f"reward={choice}", *more, "sampler=confidence", "benchmark=arithmetic").reward
        except UsageError:
            continue  # nothing is set to load, or nobody agreed to run its code
        if reward.kind == kind:
            return replace(reward, judge=Scripted(name="scripted")) if kind in JUDGED else reward
    raise AssertionError(f"no choice of conf/reward of kind {kind} can be loaded")


@pytest.mark.parametrize(("role", "name"), every("reward"))
def test_scores_do_not_depend_on_what_else_is_scored(role: str, name: str) -> None:
    reward = choice_of(name)
    if not reward.scores:
        return
    benchmark = Arithmetic(limit=4)
    reward = reward.loaded(benchmark, 0)
    texts = ["12", "the answer is 7", "", "3 + 4 = 7\n\n7"]
    candidates = [
        Candidate(example, text, n / 4, n, blocks=(text[: len(text) // 2], text), slot=n)
        for n, (example, text) in enumerate(zip(benchmark.examples(), texts, strict=True))
    ]
    together = ask(reward, candidates)
    reward.forget()
    backward = ask(reward, candidates[::-1])
    for n, candidate in enumerate(candidates):
        reward.forget()
        alone = ask(reward, [candidate])
        assert alone.values == pytest.approx([together.values[n]], rel=1e-4, abs=1e-6)
        assert alone.values == pytest.approx([backward.values[-1 - n]], rel=1e-4, abs=1e-6)
        if reward.stateless:  # example and text alone decide
            other = replace(candidate, progress=1.0, step=-1, slot=None)
            assert ask(reward, [other]).values == pytest.approx(alone.values, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("role", "name"), every("metric"))
def test_a_metric_measures_what_it_says_of_each_answer(role: str, name: str) -> None:
    metric = part(role, name)
    if any(setting.default == "???" for setting in registry.available(role)[name].settings.values()):
        return  # it needs a language model, or a module of the user's
    texts = {
        "predictions": ["one two two", "", "a b"],
        "references": ["one two", "x", "b"],
        "prompts": ["p", "q", "r"],
        "questions": ["0", "0", "1"],
        "keywords": [["two"], [], ["b", "c"]],
        "histories": [[], [("p", "one")], []],
        "tokens": [[5, 6, 7], [0], [8]],
        "choices": [
            [
                {"log_likelihood": -n - 1.0, "standard_error": 0.1, "divisor": 1, "difference_error": 0.1}
                for n in range(3)
            ]
        ]
        * 3,
    }
    metric = metric.load("metric.m")
    metric.use(compose("model=tiny"))
    found = metric.compute(**{fixed: texts[fixed] for fixed in metric.inputs})
    assert found.keys() == metric.measures.keys()
    assert all(not isinstance(values, list) or len(values) == 3 for values in found.values())


@pytest.mark.parametrize(("role", "name"), every("benchmark"))
def test_generated_examples_are_the_first_of_more_and_their_answers_right(role: str, name: str) -> None:
    cls = registry.load(role, name, role)
    if not issubclass(cls, Generated):
        return  # its examples are read from files
    few, more = (cls(kind=name, limit=limit, seed=7).examples() for limit in (3, 5))
    assert few == more[:3]
    assert len({example.id for example in more}) == 5
    assert cls(kind=name, limit=3, seed=8).examples() != few
    for example in more:
        grade = cls(kind=name).grade(example, example.reference)
        assert grade.correct
        assert grade.partial == 1
        wrong = cls(kind=name).grade(example, "no idea")
        assert not wrong.correct
        assert 0 <= wrong.partial < 1
