"""Searches: the laws that they promise on a model small enough to enumerate, and what they share with a plain run."""

from __future__ import annotations

import itertools

import pytest
import torch
from support import FakeDenoiser, Found, decode, make_sampler, new_canvas, search
from torch import Tensor

from rws_cli.decoding.record import Cost
from rws_cli.decoding.statistics import Statistics
from rws_cli.search.best_of_n import BestOfN
from rws_cli.search.fk import Fk
from rws_cli.search.particle_gibbs import ParticleGibbs
from rws_cli.search.smc import SelfRewardingSmc

G, TOKENS = 3, 3
ANSWERS = list(itertools.product(range(TOKENS), repeat=G))


def toy() -> FakeDenoiser:
    """Three tokens and a mask; not so sure of anything that some answers never come."""
    model = FakeDenoiser(vocabulary=TOKENS + 1, mask_id=TOKENS, eos_ids=(), seed=3)
    model.head /= 4
    return model


REWARDS = torch.linspace(-1, 1, len(ANSWERS), dtype=torch.float64)[
    torch.randperm(len(ANSWERS), generator=torch.Generator().manual_seed(7))
]


class TableReward:
    statistics = Statistics(0.0, 1.0, -1.0, 1.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return REWARDS[(tokens_BG * torch.tensor([TOKENS**2, TOKENS, 1])).sum(-1)].tolist()


class TokenSum:
    statistics = Statistics(0.0, 1.0, 0.0, 1.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return tokens_BG.double().mean(-1).tolist()


def law() -> Tensor:
    """p(x) of decoding left to right at T = 1, for each of ANSWERS, by asking the model for every prefix."""
    model, p = toy(), []
    for answer in ANSWERS:
        total = 1.0
        for i in range(G):
            ids = torch.tensor([[1, *answer[:i], *[model.mask_id] * (G - i)]])
            logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, 1 + i, :TOKENS]
            total *= float(logits.softmax(-1)[answer[i]])
        p.append(total)
    assert sum(p) == pytest.approx(1)
    return torch.tensor(p, dtype=torch.float64)


def run(method, prompts: int, seed: int = 0, most_rows: int | None = None, **settings) -> tuple[Tensor, Found, list]:
    """Answers chosen (prompts, G), what was found, and the costs of all rows."""
    model = toy()
    k = method.particles
    ids = [f"{n} particle {j}" if j else f"{n}" for n in range(prompts) for j in range(k)]
    canvas = new_canvas([[1]] * len(ids), ids, G, model.mask_id, 0, seed)
    costs = [Cost() for _ in ids]
    options = {"order": "left_to_right", "temperature": 1.0, "search": method} | settings
    found = search(model, canvas, make_sampler(G, **options), TableReward(), costs, most_rows=most_rows)
    answers = torch.tensor([[*t.token] for t in found.traces])
    return answers, found, costs


def distance(answers: Tensor, target: Tensor) -> float:
    """Total variation between the answers' frequencies and a law."""
    index = (answers * torch.tensor([TOKENS**2, TOKENS, 1])).sum(-1)
    seen = torch.bincount(index, minlength=len(ANSWERS)) / len(index)
    return float((seen - target).abs().sum() / 2)


def noise(target: Tensor, n: int) -> float:
    """The total variation that n draws of the law itself are expected to have: ½ Σ √(2p(1 − p)/(πn))."""
    return float((2 * target * (1 - target) / (torch.pi * n)).sqrt().sum() / 2)


def tilted(beta: float) -> Tensor:
    weights = law() * (REWARDS / beta).exp()
    return weights / weights.sum()


N = 2000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "fill", "completions"),
    [("difference", "argmax", 1), ("max", "argmax", 1), ("sum", "sample", 2)],
)
def test_fk_steering_comes_to_the_tilted_law(potential: str, fill: str, completions: int) -> None:
    target = tilted(1.0)
    found = [
        distance(
            run(
                Fk(
                    kind="fk",
                    particles=k,
                    beta=1.0,
                    potential=potential,
                    every=1,
                    completions=completions,
                    fill=fill,
                    ending="draw",
                ),
                N,
            )[0],
            target,
        )
        for k in (1, 4, 32)
    ]
    assert found[0] > 5 * noise(target, N)  # one particle draws from p
    assert found[0] > found[1] > found[2]
    assert found[2] < 2.5 * noise(target, N)


@pytest.mark.slow
def test_particle_gibbs_comes_to_the_tilted_law_as_sweeps_grow() -> None:
    """With two particles only, so that it is the sweeps that do it."""
    target = tilted(1.0)

    def after(sweeps: int) -> float:
        method = ParticleGibbs(
            kind="particle_gibbs",
            particles=2,
            beta=1.0,
            potential="difference",
            every=1,
            completions=1,
            fill="argmax",
            ending="draw",
            sweeps=sweeps,
        )
        return distance(run(method, N)[0], target)

    one, three, many = after(1), after(3), after(10)
    assert one > three > many
    assert many < 2 * noise(target, N)


def test_particle_gibbs_that_ends_with_the_best_never_falls_back() -> None:
    scores = []
    for sweeps in (1, 2, 4):
        method = ParticleGibbs(
            kind="particle_gibbs",
            particles=3,
            beta=0.4,
            potential="difference",
            every=1,
            completions=1,
            fill="argmax",
            ending="best",
            sweeps=sweeps,
        )
        answers, found, _ = run(method, 200)
        best = torch.tensor(found.scores).max(-1).values
        assert torch.equal(torch.tensor(TableReward()([], answers, [], -1)), best)
        scores.append(best)
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] <= scores[2]).all()
    assert (scores[2] > scores[0]).any()


@pytest.mark.slow
def test_smc_comes_to_the_square_of_the_law() -> None:
    """Draws from p, weighted by p: the weights are Σ log p of what was committed, since the last resampling."""
    squared = law() ** 2
    target = squared / squared.sum()
    found = []
    for k in (1, 4, 32):
        method = SelfRewardingSmc(kind="smc", particles=k, ess=1.0, ending="draw")
        found.append(distance(run(method, N, block_length=1)[0], target))
    assert found[0] > 5 * noise(target, N)
    assert found[0] > found[1] > found[2]
    assert found[2] < 2.5 * noise(target, N)


def test_smc_resamples_only_where_the_weights_are_uneven_and_returns_the_likeliest() -> None:
    never = run(SelfRewardingSmc(kind="smc", particles=4, ess=0.0, ending="best"), 50, block_length=1)
    plain = run(BestOfN(kind="best_of_n", particles=4), 50, block_length=1)
    assert [len(s) for s in never[1].scores] == [4] * 50
    p = law().log()
    for answer, scores in zip(never[0].tolist(), never[1].scores, strict=True):
        assert float(p[ANSWERS.index(tuple(answer))]) == pytest.approx(max(scores))
    assert never[1].rows != plain[1].rows  # the likeliest is not the best rewarded


@pytest.mark.parametrize("n", [1, 2, 5])
def test_best_of_n_has_its_closed_form(n: int) -> None:
    """P(x) = F(r(x))^N − F(r(x)⁻)^N for distinct rewards, F the law of one reward."""
    p = law()
    order = REWARDS.argsort()
    upto = p[order].cumsum(0)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), upto[:-1]])
    target = torch.empty_like(p)
    target[order] = upto**n - below**n
    assert distance(run(BestOfN(kind="best_of_n", particles=n), N)[0], target) < 2 * noise(target, N)


METHODS = [
    BestOfN(kind="best_of_n", particles=3),
    SelfRewardingSmc(kind="smc", particles=3, ess=0.9, ending="best"),
    Fk(kind="fk", particles=3, beta=0.3, potential="difference", every=1, completions=1, fill="argmax", ending="best"),
    ParticleGibbs(
        kind="particle_gibbs",
        particles=3,
        beta=0.3,
        potential="max",
        every=1,
        completions=2,
        fill="sample",
        ending="draw",
        sweeps=2,
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_prompts_answer_depends_on_no_other_prompt_and_on_no_memory_budget(method) -> None:
    together, found, costs = run(method, 6, block_length=1)
    split, again, _ = run(method, 6, block_length=1, most_rows=2)
    assert torch.equal(together, split)
    assert again.rows == found.rows
    assert torch.equal(run(method, 1, block_length=1)[0][0], together[0])
    sweeps = getattr(method, "sweeps", 1)
    assert [cost.mdm_passes for cost in costs] == [G * sweeps] * 18
    assert [len(trace.step) for trace in found.traces] == [G] * 6


def test_one_particle_is_a_plain_run() -> None:
    answers, _, _ = run(BestOfN(kind="best_of_n", particles=1), 8)
    model = toy()
    canvas = new_canvas([[1]] * 8, [str(n) for n in range(8)], G, model.mask_id, 0, 0)
    decode(model, canvas, make_sampler(G, order="left_to_right", temperature=1.0))
    assert torch.equal(canvas.completion_BG, answers)


@pytest.mark.parametrize("method", [m for m in METHODS if m.kind != "best_of_n"], ids=lambda m: m.kind)
def test_answers_that_end_early_and_are_copied_leave_no_mask(method) -> None:
    """A particle that is done may become a copy of one that is not, and the other way round."""
    model = toy()
    model.eos_ids = (0,)
    ids = [f"{n} particle {j}" if j else f"{n}" for n in range(40) for j in range(3)]
    canvas = new_canvas([[1]] * len(ids), ids, 6, model.mask_id, 0, 0)
    settings = {"order": "left_to_right", "temperature": 1.0, "search": method, "eos": "stop", "block_length": 3}
    found = search(model, canvas, make_sampler(6, **settings), TokenSum())
    assert not canvas.batch.masked_BG.any()
    lengths = {len(trace.step) for trace in found.traces}
    assert len(lengths) > 2  # some ended early
    for row, trace in zip(found.rows, found.traces, strict=True):
        assert canvas.completion_BG[row].tolist() == trace.token + [0] * (6 - len(trace.token))
