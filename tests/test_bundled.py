"""The bundled checkpoints do what their card says, within the noise of few examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import decode, make_sampler, new_canvas

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.catalog import ASSETS
from rws_cli.config.composing import compose
from rws_cli.rewards.base import Candidate
from rws_cli.rewards.classifier import Classifier

BENCHMARKS = {"sudoku": (Sudoku, 36), "arithmetic": (Arithmetic, 20)}


@pytest.fixture(scope="module")
def denoiser():
    return compose().model.load()


@pytest.fixture(scope="module")
def reward() -> Classifier:
    return compose().reward.loaded(None, 0)


def answers(denoiser, task: str, count: int, size: int = 20, **options) -> list[str]:
    kind, length = BENCHMARKS[task]
    found = []
    examples = kind(limit=count, seed=21).examples()
    for start in range(0, count, size):
        part = examples[start : start + size]
        canvas = new_canvas(
            [denoiser.encode(e.prompt) for e in part],
            [e.id for e in part],
            length,
            denoiser.mask_id,
            denoiser.pad_id,
            seed=0,
        )
        decode(denoiser, canvas, make_sampler(length, **options))
        found += [denoiser.text(row) for row in canvas.completion_BG.tolist()]
    return found


def share_right(task: str, texts: list[str]) -> float:
    benchmark = BENCHMARKS[task][0](limit=len(texts), seed=21)
    grades = [benchmark.grade(e, t) for e, t in zip(benchmark.examples(), texts, strict=True)]
    return sum(grade.correct for grade in grades) / len(grades)


@pytest.mark.parametrize(
    ("task", "at_least"), [pytest.param("sudoku", 0.85, marks=pytest.mark.slow), ("arithmetic", 0.6)]
)
def test_confidence_order_solves_and_random_order_does_worse(denoiser, task: str, at_least: float) -> None:
    sure = share_right(task, answers(denoiser, task, 40))
    assert sure >= at_least
    assert share_right(task, answers(denoiser, task, 40, order="random")) < sure


@pytest.mark.parametrize("options", [{}, {"order": "random", "temperature": 0.9}], ids=["greedy", "sampled"])
def test_the_same_tokens_whatever_the_batch(denoiser, options: dict) -> None:
    for task in BENCHMARKS:
        alone = answers(denoiser, task, 8, size=1, tokens_per_step=2, **options)
        for size in (3, 8):
            assert answers(denoiser, task, 8, size=size, tokens_per_step=2, **options) == alone


def test_the_reward_ranks_damage(reward: Classifier) -> None:
    """The true answer over one with a few wrong cells or digits, over one with many."""
    generator = torch.Generator().manual_seed(0)
    right = 0
    examples = Sudoku(limit=40, seed=9).examples()
    for example in examples:
        texts = [example.reference]
        for wrong in (4, 16):
            cells = list(example.reference)
            for cell in torch.randperm(36, generator=generator)[:wrong].tolist():
                cells[cell] = str(int(cells[cell]) % 6 + 1)
            texts.append("".join(cells))
        scores = reward.score([Candidate(example, text, 1.0, 0) for text in texts]).values
        right += scores == sorted(scores, reverse=True)
    assert right >= 30


def test_files_are_small_and_figures_meet_the_reach() -> None:
    for name, limit in (("tiny-mdm", 12), ("tiny-reward", 8)):
        assert (ASSETS / name / "model.safetensors").stat().st_size < limit * 2**20
        assert not list(Path(ASSETS / name).glob("*.bin"))
    shares = json.loads((ASSETS / "tiny-mdm" / "figures.json").read_text())["share_right"]
    figures = json.loads((ASSETS / "tiny-reward" / "figures.json").read_text())
    for task, reach in (("sudoku", 0.95), ("arithmetic", 0.70)):
        assert shares[task]["confidence"]["1"] >= reach
        assert shares[task]["random"]["1"] <= shares[task]["confidence"]["1"] - 0.20
        assert figures[task]["pairwise_accuracy"] >= 0.80  # sudoku alone stays just under 0.85
        assert figures[task]["spearman"] >= 0.6
    assert figures["together"]["pairwise_accuracy"] >= 0.85
