"""All that a row knows is its own: each case with a scripted part, on a toy model and on the bundled one, and each row
with the tokens and the trace that it has alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import FakeDenoiser, Scored, make_sampler, part
from torch import Tensor

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.config.composing import compose
from rws_cli.decoding.batch import Prompt, prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion, RowTrace
from rws_cli.decoding.statistics import Statistics
from rws_cli.decoding.step import Prediction, Ranking, Step
from rws_cli.orders.base import Order
from rws_cli.part import part as graded
from rws_cli.schedules.base import Adaptive, Schedule, best
from rws_cli.search.base import Search

GEN = 8
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 0.9, "order": "random"},
    "guided": {"guidance": ("guidance", "rws"), "temperature": 0.7},
}


@pytest.fixture(scope="module")
def bundled() -> Any:
    return compose().model.load()


@pytest.fixture(params=["toy", "bundled"])
def model(request: pytest.FixtureRequest) -> Any:
    return FakeDenoiser(seed=4) if request.param == "toy" else request.getfixturevalue("bundled")


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    settings = WAYS[request.param]
    return settings | {name: part(*value) for name, value in settings.items() if name == "guidance"}


def rows_for(model: Any, count: int, **settings: Any) -> list[Prompt]:
    """Prompts of different lengths."""
    if isinstance(model, FakeDenoiser):
        texts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    else:
        texts = [model.encode(example.prompt) for example in Arithmetic(limit=3, seed=5).examples()]
    rows = [prompt_of(ids, 3, f"row-{n}") for n, ids in enumerate(texts[:count])]
    return [
        Prompt(row.ids, row.key, **{name: value[n] for name, value in settings.items()}) for n, row in enumerate(rows)
    ]


class Tokens:
    """Scores an answer by its tokens."""

    statistics = Statistics(mean=40.0, std=20.0, min=0.0, max=200.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return [float((row % 10).sum()) + share for row, share in zip(tokens_BG, filled, strict=True)]


def run(
    model: Any, prompts: list[Prompt], rows: int | None = None, **settings: Any
) -> tuple[list[Completion], Decoder]:
    decoder = Decoder(model, prompts, make_sampler(GEN, **settings), rows=rows)
    decoder.scorer = Scored(Tokens(), Tokens.statistics, decoder.costs)
    found = [one for some in decoder.run() for one in some]
    return sorted(found, key=lambda one: one.number), decoder


def recorded(trace: RowTrace) -> dict[str, Any]:
    """A trace without what a last bit may change."""
    return {name: value for name, value in vars(trace).items() if isinstance(value, list) and name in EXACT}


EXACT = ("step", "position", "token", "masked", "pairs")


def assert_as_alone(model: Any, prompts: list[Prompt], found: list[Completion], **settings: Any) -> None:
    assert [one.number for one in found] == list(range(len(prompts)))
    for prompt, together in zip(prompts, found, strict=True):
        (alone,), _ = run(model, [prompt], **settings)
        assert together.tokens == alone.tokens
        assert recorded(together.trace) == recorded(alone.trace)
        assert together.trace.confidence == pytest.approx(alone.trace.confidence, rel=1e-4)
        assert together.cost.mdm_passes == alone.cost.mdm_passes
        assert together.cost.mdm_tokens == alone.cost.mdm_tokens


# --- two rows with different block borders ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["fixed", "threshold", "dream", "klass", "wino"])
def test_two_rows_with_different_block_borders(model: Any, way: dict[str, Any], schedule: str) -> None:
    prompts = rows_for(model, 3, block_ends=[[2, 8], [5, 6, 8], None])
    settings = {"block_length": 4, "schedule": part("schedule", schedule), **way}
    found, _ = run(model, prompts, **settings)
    assert_as_alone(model, prompts, found, **settings)
    assert all(model.mask_id not in one.tokens for one in found)
    for one, ends in zip(found, ([2, 8], [5, 6, 8], [4, 8]), strict=True):
        blocks = [sum(position >= end for end in ends) for position in one.trace.position]
        assert blocks == sorted(blocks)
        assert sorted(set(one.trace.position)) == list(range(GEN))
        assert one.trace.step == sorted(one.trace.step)
        assert all(  # no step belongs to two blocks
            a == b
            for s, a in zip(one.trace.step, blocks, strict=True)
            for t, b in zip(one.trace.step, blocks, strict=True)
            if s == t
        )


def test_a_block_is_decoded_as_by_hand_wherever_it_ends() -> None:
    model, ends = FakeDenoiser(seed=6), ([3, 8], [1, 2, 8])
    prompts = rows_for(model, 2, block_ends=list(ends))
    found, _ = run(model, prompts, schedule=part("schedule", "threshold", threshold=1.0))
    for prompt, one, borders in zip(prompts, found, ends, strict=True):
        assert one.trace.position == by_hand(model, prompt, borders, {})[0]


def by_hand(model: FakeDenoiser, prompt: Prompt, ends: list[int], fixed: dict[int, int]) -> tuple[list[int], list[int]]:
    """The surest position of the first block that is not done, one per step: positions in order, and the tokens."""
    answer, order = [fixed.get(n, model.mask_id) for n in range(GEN)], []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        while masked := [n for n in range(start, end) if answer[n] == model.mask_id]:
            ids = torch.tensor([prompt.ids + answer])
            p_GV = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(prompt.ids) :].log_softmax(-1)
            surest = max(masked, key=lambda n: (float(p_GV[n].max()), -n))
            answer[surest] = int(p_GV[surest].argmax())
            order.append(surest)
    return order, answer


# --- a row that enters late ---------------------------------------------------------------------------------------


@graded
class Uneven(Adaptive):
    """As many as the row's own key says, 1 to 3 a step."""

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return best(ranking.score_BG, step.key_B % 3 + 1)


def test_a_row_that_enters_late(model: Any, way: dict[str, Any]) -> None:
    prompts = rows_for(model, 3)
    prompts = [Prompt(row.ids, row.key - row.key % 3 + n) for n, row in enumerate(prompts)]  # 1, 2 and 3 a step
    settings = {"block_length": 4, "schedule": Uneven(kind="uneven"), **way}
    decoder = Decoder(model, prompts, make_sampler(GEN, **settings), rows=2)
    decoder.scorer = Scored(Tokens(), Tokens.statistics, decoder.costs)
    entered, met = [], []
    decoder.on_enter = entered.append
    decoder.on_step = lambda committed, traces: met.append(decoder.batch.step_B.tolist())
    found = sorted((one for some in decoder.run() for one in some), key=lambda one: one.number)
    assert entered == [{0: 0, 1: 1}, {1: 2}]
    assert any(first != second for first, second in met)  # neighbors at different steps
    assert [one.cost.mdm_passes for one in found] == [8, 4, 4]
    assert len(met) == 8  # of the row that takes longest; the third prompt took the second's place
    assert_as_alone(model, prompts, found, **settings)


# --- what an order sees of its row --------------------------------------------------------------------------------


@graded
class Looking(Order):
    """By confidence; notes what it sees."""

    def score(self, prediction: Prediction, step: Step) -> Tensor:
        prompts = [ids[shown].tolist() for ids, shown in zip(step.prompt_BP, step.prompt_attention_BP, strict=True)]
        self.seen.append((prompts, step.all_masked_BG.sum(1).tolist(), step.last_scores().tolist()))
        return prediction.log_p_N


@pytest.mark.parametrize("guided", [True, False])
def test_an_order_sees_prompt_open_positions_and_the_last_score(model: Any, guided: bool) -> None:
    prompts, order = rows_for(model, 3), Looking(kind="looking")
    order.seen = []
    guidance = part("guidance", "rws" if guided else "none")
    found, _ = run(model, prompts, block_length=4, order=order, guidance=guidance)
    order.seen = order.seen[::2] if guided else order.seen  # where logits are scaled, each step is ranked once more
    assert len(order.seen) == GEN
    for step, (seen, masked, scores) in enumerate(order.seen):
        assert seen == [prompt.ids for prompt in prompts]
        assert masked == [GEN - step] * 3
        if guided:
            assert scores == [one.trace.reward[step] for one in found]
        else:
            assert all(math.isnan(score) for score in scores)


# --- a row that is rolled back ------------------------------------------------------------------------------------


@graded
class Once(Search):
    """Saves every row after its second step, and sets those with an odd key back once, after their fifth."""

    rolls_back = True

    def saves(self, step: Step) -> Tensor:
        return step.number_B == 2

    def rolled_back(self, step: Step) -> Tensor:
        done_B = step.memory.get("search.done", 0, dtype=torch.bool)
        back_B = (step.number_B == 5) & ~done_B & (step.key_B % 2 == 1)
        done_B |= back_B
        return back_B


@graded
class FromTheStart(Once):
    """The same, with nothing saved."""

    def saves(self, step: Step) -> Tensor:
        return torch.zeros_like(step.live_B)


@pytest.mark.parametrize(("search", "again"), [(Once, 3), (FromTheStart, 5)])
@pytest.mark.parametrize("schedule", ["fixed", "klass", "remdm"])
def test_a_row_that_is_rolled_back(model: Any, way: dict[str, Any], schedule: str, search: Any, again: int) -> None:
    """Random numbers depend on a step's number, so the row commits the same tokens again: those of a row that never was
    set back, with their costs on top."""
    way = way | ({"temperature": 0.9, "steps": 12} if schedule == "remdm" else {"block_length": 4})
    schedules = {"klass": {"threshold": 1.0, "history": 1}, "remdm": {"eta": 0.5}}
    settings = {**way, "schedule": part("schedule", schedule, **schedules.get(schedule, {}))}
    prompts = [Prompt(row.ids, row.key - row.key % 2 + (n == 0)) for n, row in enumerate(rows_for(model, 3))]
    plain, _ = run(model, prompts, **settings)
    found, decoder = run(model, prompts, rows=2, search=search(kind="once"), **settings)
    for one, other in zip(found, plain, strict=True):
        assert one.tokens == other.tokens
        assert recorded(one.trace) == recorded(other.trace)
        assert one.trace.scale == other.trace.scale or one.trace.scale == pytest.approx(other.trace.scale, rel=1e-4)
    more = [one.cost.mdm_passes - other.cost.mdm_passes for one, other in zip(found, plain, strict=True)]
    assert more[1:] == [0, 0]
    assert more[0] == again if schedule != "remdm" else 0 < more[0] <= again
    assert decoder.batch.memory.values["search.done"].tolist() == [True, False]


# --- a canvas with given tokens -----------------------------------------------------------------------------------


@graded
class Greedy(Schedule):
    """Opens, chooses and masks all that it can, given tokens too."""

    remasks = True

    def candidates(self, step: Step) -> Tensor:
        return torch.ones_like(step.masked_BG)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return torch.ones_like(ranking.open_BG)

    def after(self, chosen_BG: Tensor, shadow_BG: Tensor | None, step: Step) -> Tensor | None:
        return torch.ones_like(chosen_BG) & (step.index_B < 2)[:, None]

    def ended(self, step: Step) -> Tensor:
        return step.index_B >= 3


GIVEN = [{0: 5, 3: 7}, {4: 8, 5: 9, 6: 3, 7: 6}, {}]
"""Of the second row a whole block of 4."""


@pytest.mark.parametrize("schedule", ["fixed", "klass", "remdm", "wino", "greedy"])
def test_a_canvas_with_given_tokens(model: Any, way: dict[str, Any], schedule: str) -> None:
    """No part chooses, masks or counts them."""
    if schedule == "wino" and not hasattr(model, "shadowed"):
        pytest.skip("no shadows")
    rule: Any = Greedy(kind="greedy") if schedule == "greedy" else part("schedule", schedule)
    prompts = rows_for(model, 3, fixed=GIVEN)
    settings = {"block_length": 4, "schedule": rule, **way}
    found, _ = run(model, prompts, **settings)
    for one, fixed in zip(found, GIVEN, strict=True):
        assert {position: one.tokens[position] for position in fixed} == fixed
        assert set(one.trace.position) == set(range(GEN)) - set(fixed)
        assert model.mask_id not in one.tokens
        if schedule == "fixed":  # 4 steps per block, one for each position that is not fixed
            assert len(one.trace.step) == one.cost.mdm_passes == GEN - len(fixed)
    assert_as_alone(model, prompts, found, **settings)


def test_given_tokens_are_read_as_they_stand_and_counted_by_nobody() -> None:
    model = FakeDenoiser(seed=2)
    prompts = rows_for(model, 3, fixed=GIVEN, block_ends=[[4, 8]] * 3)
    found, _ = run(model, prompts, block_length=4)
    for prompt, one in zip(prompts, found, strict=True):
        assert (one.trace.position, one.tokens) == by_hand(model, prompt, [4, 8], dict(prompt.fixed))

    shares: dict[int, list[float]] = {}

    class Watching(Tokens):
        def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
            for row, share in zip(rows, filled, strict=True):
                shares.setdefault(row, []).append(share)
            return [0.0] * len(rows)

    decoder = Decoder(model, prompts, make_sampler(GEN, guidance=part("guidance", "rws")))
    decoder.scorer = Scored(Watching(), Tokens.statistics, decoder.costs)
    list(decoder.run())
    for row, fixed in enumerate(GIVEN):
        free = GEN - len(fixed)
        assert shares[row] == pytest.approx([n / free for n in range(free)])


# --- an edited token ----------------------------------------------------------------------------------------------


@graded
class Editing(Schedule):
    """One token a step from left to right; the sixth and the eighth step write the first position again."""

    edits = (5, 7)

    def candidates(self, step: Step) -> Tensor:
        place_G = torch.arange(step.masked_BG.shape[1])
        edits_B = torch.isin(step.index_B, torch.tensor(self.edits))
        first_BG = place_G == (step.masked_BG.to(torch.int8).argmax(-1))[:, None]
        return torch.where(edits_B[:, None], place_G == 0, first_BG & step.masked_BG)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        return ranking.open_BG

    def ended(self, step: Step) -> Tensor:
        return step.index_B >= GEN + len(self.edits)


def test_an_edited_token(model: Any, way: dict[str, Any]) -> None:
    prompts = rows_for(model, 3)
    settings = {"schedule": Editing(kind="editing"), **way}
    found, _ = run(model, prompts, rows=2, **settings)
    for one in found:
        trace = one.trace
        assert trace.step == list(range(GEN + 2))
        assert trace.position == [0, 1, 2, 3, 4, 0, 5, 0, 6, 7]
        assert dict(zip(trace.position, trace.token, strict=True)) == dict(enumerate(one.tokens))  # the last one stands
        assert trace.remasked_at == [None] * len(trace.step)
        assert one.cost.mdm_passes == GEN + 2
    assert_as_alone(model, prompts, found, **settings)


def test_an_edited_token_is_what_the_model_says_with_the_old_one_in_place() -> None:
    changed = 0
    for seed in range(6):
        model = FakeDenoiser(seed=seed)
        (prompt,) = rows_for(model, 1)
        (one,), _ = run(model, [prompt], schedule=Editing(kind="editing"))
        answer = [model.mask_id] * GEN
        for position, token in zip(one.trace.position, one.trace.token, strict=True):
            ids = torch.tensor([prompt.ids + answer])
            logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(prompt.ids) + position]
            assert token == int(logits.argmax())
            changed += answer[position] not in (model.mask_id, token)
            answer[position] = token
        assert one.tokens == answer
    assert changed
