"""A reward of each part of an answer."""

from __future__ import annotations

import pytest
from support import make_sampler

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.rewards.base import Candidate, Reward, Scores
from rws_cli.rewards.process import Process, steps
from rws_cli.rewards.scorer import renderer


class Lengths(Reward):
    def score(self, asked: list[Candidate]) -> Scores:
        return Scores([float(len(c.text)) for c in asked], [1] * len(asked))


@pytest.mark.parametrize(("join", "expected"), [("mean", (3 + 9) / 2), ("min", 3), ("last", 9)])
def test_steps_are_lines(join: str, expected: float) -> None:
    assert steps("a b\n\n c\nd") == ("a b", "a b\n\n c", "a b\n\n c\nd")
    assert steps("\n") == ("\n",)
    reward = Process(name="p", component=Lengths(name="l"), unit="step", join=join).loaded(None, 0)
    found = reward.score([Candidate(Example("e", "", ""), text, 1.0, 0) for text in ("one", "abc\ndefgh", "")])
    assert found.values == [3.0, expected, 0.0]
    assert found.tokens == [1, 2, 1]


def test_blocks_are_the_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier of a solved sudoku in blocks of 12: a third, two thirds, all of it."""
    benchmark = Sudoku(limit=1)
    example = benchmark.examples()[0]
    denoiser = compose().model.load()
    ids = denoiser.tokenizer(example.reference).input_ids
    render = renderer(denoiser, make_sampler(36, block_length=12))
    candidate = render(example, ids, 1.0, -1)
    assert candidate.blocks == (example.reference[:12], example.reference[:24], example.reference)
    reward = compose("reward=process", "reward@reward.component=verifier").reward.loaded(benchmark, 0)
    assert reward is not None
    assert reward.score([candidate]).values == [pytest.approx(2 / 3)]
    whole = renderer(denoiser, make_sampler(36))(example, ids, 1.0, -1)
    assert whole.blocks == ()
    assert reward.score([whole]).values == [1.0]


def test_a_process_reward_is_calibrated_and_steers(rws, small: list[str]) -> None:
    options = [*small, "reward=process", "reward@reward.component=verifier", "reward.unit=step"]
    assert "rws calibrate" in rws("run", *options).output
    result = rws("calibrate", *options)
    assert result.exit_code == 0, result.output
    assert rws("run", *options).exit_code == 0
