"""HEX against a slow reference written from the authors' code: one completion at a time, then a vote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import FakeDenoiser, make_sampler, new_canvas, part, samples_of, search

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.config.composing import compose
from rws_cli.decoding.record import Cost
from rws_cli.errors import UsageError
from rws_cli.runs.plan import plan

PROMPT, SEED, MASK = [1, 4, 2], 5, 11


def made(seed: int) -> FakeDenoiser:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.4
    return model


def answer(tokens: list[int]) -> str:
    """Stands in for a benchmark: some completions have no answer."""
    return "" if tokens[0] % 4 == 3 else str(sum(tokens) % 3)


def decoded(model: FakeDenoiser, gen: int, block: int, per_step: int) -> list[int]:
    """Blocks of one length from left to right, the surest tokens of a step first."""
    x = [MASK] * gen
    for first in range(0, gen, block):
        while left := [i for i in range(first, first + block) if x[i] == MASK]:
            ids = torch.tensor([PROMPT + x])
            p = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :].softmax(-1).tolist()
            token = {i: max((t for t in range(12) if t != MASK), key=p[i].__getitem__) for i in left}
            for i in sorted(left, key=lambda i: (-p[i][token[i]], i))[:per_step]:
                x[i] = token[i]
    return x


def slow(model: FakeDenoiser, gen: int, blocks: list[int], per_step: int) -> tuple[list[int], list[float]]:
    completions = [decoded(model, gen, block, per_step) for block in blocks]
    counts: dict[str, int] = {}
    for one in completions:
        if answer(one):
            counts[answer(one)] = counts.get(answer(one), 0) + 1
    votes = [float(counts.get(answer(one), 0)) for one in completions]
    if not counts:
        return completions[0], votes
    winner = next(name for name, count in counts.items() if count == max(counts.values()))  # the first of equals
    return next(one for one in completions if answer(one) == winner), votes


def found(model: FakeDenoiser, gen: int, per_step: int, method, questions: int = 1) -> tuple[list, list, list]:
    names = [f"{n} {j}" for n in range(questions) for j in range(method.particles)]
    canvas, costs = new_canvas([PROMPT] * len(names), names, gen, MASK, 0, SEED), [Cost()] * len(names)
    for row, prompt in enumerate(canvas.prompts):
        canvas.prompts[row] = replace(prompt, block_ends=method.block_ends(row % method.particles, gen))
    sampler = make_sampler(gen, tokens_per_step=per_step, search=method)
    result = search(
        model, canvas, sampler, costs=costs, on_enter=lambda rows: method.begin(dict.fromkeys(rows, answer))
    )
    return [canvas.completion_BG[row].tolist() for row in result.rows], result.scores, costs


CASES = [(16, 2, 4, [1, 2, 4, 8]), (8, 2, 3, [1, 2, 4]), (12, 1, 2, [3, 6]), (32, 2, 5, [1, 2, 4, 8, 16])]


@pytest.mark.parametrize(("gen", "per_step", "particles", "blocks"), CASES)
def test_hex(gen: int, per_step: int, particles: int, blocks: list[int]) -> None:
    for seed in range(3):
        expected, votes = slow(made(seed), gen, blocks, per_step)
        method = part("search", "hex", particles=particles)
        completions, scores, costs = found(made(seed), gen, per_step, method, questions=2)
        assert completions == [expected, expected]
        assert scores == [votes, votes]
        passes = [cost.mdm_passes for cost in costs[:particles]]
        assert passes == [gen // block * -(-block // per_step) for block in blocks]


def test_the_published_lengths_of_blocks() -> None:
    """8 to 128 for 256 tokens, 16 to 256 for 512, 4 to 64 for 128."""
    method = part("search", "hex")
    for gen, shortest in ((128, 4), (256, 8), (512, 16)):
        ends = [method.block_ends(particle, gen) for particle in range(5)]
        assert [few[0] for few in ends] == [shortest * 2**n for n in range(5)]
        assert all(few == list(range(few[0], gen + 1, few[0])) for few in ends)


def test_completions_without_an_answer_do_not_vote() -> None:
    method = part("search", "hex", particles=3)
    answers = {0: "", 1: "", 2: "7", 3: "", 4: "", 5: ""}
    method.begin({row: lambda tokens, row=row: answers[row] for row in answers})

    class Step:
        length_B, tokens_BG = torch.full((6,), 8), torch.zeros((6, 8), dtype=torch.int64)

    assert method.finish(Step(), list(range(6))) == ([2, 3], [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def test_a_run_returns_an_answer_of_the_majority(rws, tmp_path: Path) -> None:
    settings = ["sampler=hex", "benchmark=arithmetic", "benchmark.limit=2", "sampler.search.particles=2", "reward=none"]
    result = rws("run", *settings)
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs" / "arithmetic" / "tiny-hex" / "v001"
    examples = {example.id: example for example in Arithmetic(limit=2).examples()}
    for sample in samples_of(run):
        assert len(sample["particles"]) == 2
        extracted = Arithmetic(limit=2).grade(examples[sample["id"]], sample["completion"]).extracted
        assert bool(extracted) == bool(max(sample["particles"]))
    cost = json.loads((run / "metrics.json").read_text())["cost"]
    assert cost["mdm_passes"] <= plan(compose(*settings))["MDM passes, at most"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampler.search.particles=6", r"would divide sampler.gen_length=36 into 64 blocks: it must be at most 5"),
        ("sampler.block_length=18", r"decides block lengths itself: set sampler.block_length=36"),
        ("benchmark=instructions", r"needs answers that can be compared, and benchmark=instructions extracts none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    compose("sampler=hex")
    with pytest.raises(UsageError, match=message):
        compose("sampler=hex", setting)
