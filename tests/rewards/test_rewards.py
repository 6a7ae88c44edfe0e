"""Rewards and the scorer between them and the loop."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import REWARD_FAMILIES, REWARD_SIZE, REWARD_WORDS, load_classifier, save_reward, word_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.decoding.record import Cost
from rws_cli.errors import RunError, UsageError
from rws_cli.rewards.base import Candidate, Reward, Scores, ask, read_statistics
from rws_cli.rewards.constant import Constant
from rws_cli.rewards.scorer import Renderer, RowScorer
from rws_cli.rewards.shuffled import Shuffled
from rws_cli.rewards.verifier import Verifier


def candidates() -> list[Candidate]:
    texts = ["w1", "w2 w3 w4 w5", "", "w1", "w7 w8"]
    return [Candidate(Example("e", f"w{n} w9", ""), text, 1.0, 0) for n, text in enumerate(texts)]


@pytest.mark.parametrize("family", REWARD_FAMILIES)
def test_scores_are_the_models_own_on_each_text_alone(tmp_path: Path, family: str) -> None:
    folder = save_reward(tmp_path, family, pad=family == "llama")
    found = load_classifier(folder).score(candidates())
    model = REWARD_FAMILIES[family]().__class__.from_pretrained(folder).eval()
    for candidate, value, tokens in zip(candidates(), found.values, found.tokens, strict=True):
        text = f"<user> {candidate.example.prompt} <end> <bot> {candidate.text} <end>"
        ids = torch.tensor([[REWARD_WORDS.index(word) for word in text.split()]])
        with torch.inference_mode():
            expected = model.score(model.model(ids).last_hidden_state[0, -1])
        assert value == pytest.approx(float(expected), abs=1e-5)
        assert tokens == ids.shape[1]


TOKENIZERS: dict[str, dict[str, str]] = {
    "pad": {"pad_token": "<pad>", "eos_token": "<end>"},
    "pad is end": {"pad_token": "<end>", "eos_token": "<end>"},
    "pad on the left": {"pad_token": "<pad>", "eos_token": "<end>", "padding_side": "left"},
    "no pad": {"eos_token": "<end>"},
    "neither": {},
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("reads_on", [True, False])
def test_a_score_is_read_at_the_last_token_whatever_pads(tmp_path: Path, tokenizer: str, reads_on: bool) -> None:
    """Of texts that hold or end in what pads, alone as in a batch; against the head on the last hidden state."""
    torch.manual_seed(1)
    config = LlamaConfig(**(REWARD_SIZE | {"eos_token_id": None}), pad_token_id=None)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    word_tokenizer(REWARD_WORDS, chat_template=template, **TOKENIZERS[tokenizer]).save_pretrained(tmp_path)
    reward = load_classifier(tmp_path, batch_size=8)
    assert reward.prefixes is not None
    reward.prefixes = reward.prefixes if reads_on else None
    texts = ["w1 <end>", "w2 <pad> w3 <end> w4 <pad>", "<pad> <end> <end>", "w5", "w1 <end> <pad> <pad> <pad> <pad>"]
    asked = [Candidate(Example("e", "w1", ""), text, 1.0, 0, slot=n) for n, text in enumerate(texts)]
    expected = []
    for text in texts:
        ids = torch.tensor([[REWARD_WORDS.index(word) for word in f"w1 {text}".split()]])
        with torch.inference_mode():
            expected.append(float(model.score(model.model(ids).last_hidden_state[0, -1])))
    for _ in range(2):  # the second time from what was kept
        assert reward.score(asked).values == pytest.approx(expected, abs=1e-5)
    assert [reward.score([c]).values[0] for c in asked] == pytest.approx(expected, abs=1e-5)


def test_texts_of_all_tokens_are_scored(tmp_path: Path) -> None:
    """No token is left to pad with that no text has."""
    reward = load_classifier(save_reward(tmp_path))
    text = " ".join(REWARD_WORDS)
    asked = [Candidate(Example("e", "w1", ""), words, 1.0, 0) for words in (text, "w1")]
    assert reward.score(asked).values == pytest.approx([reward.score([c]).values[0] for c in asked], abs=1e-5)


def test_statistics_lie_beside_the_weights_or_where_the_user_says(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward")
    assert load_classifier(folder).normalization is None
    stored = {"mean": 1.0, "std": 2.0, "min": -3.0, "max": 4.0}
    (folder / "normalization.json").write_text(json.dumps(stored))
    found = load_classifier(folder).normalization
    assert found is not None
    assert (found.mean, found.std, found.min, found.max) == (1, 2, -3, 4)
    del stored["std"]
    (tmp_path / "mine.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="lacks std"):
        load_classifier(folder, statistics=str(tmp_path / "mine.json"))
    with pytest.raises(UsageError, match="no normalization statistics"):
        load_classifier(folder, statistics=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must hold an object"),
        ("3", "must hold an object"),
        ('{"mean": "x", "std": 1, "min": 0, "max": 1}', 'mean="x"'),
        ('{"mean": 0, "std": null, "min": 0, "max": 1}', "std=null"),
        ('{"mean": NaN, "std": 1, "min": 0, "max": 1}', "mean=NaN"),
        ('{"mean": 0, "std": -1, "min": 0, "max": 1}', "std of at least 0"),
        ('{"mean": 0, "std": 1, "min": 2, "max": 1}', "min that is at most max"),
    ],
)
def test_statistics_that_are_none_are_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        read_statistics(tmp_path / "s.json", "reward.statistics")
    with pytest.raises(UsageError, match="cannot be read"):
        read_statistics(tmp_path, "reward.statistics")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("lambda n: Scores([1.0] * (n + 1), [0] * n)", "returned 4 scores and 3 counts of tokens for 3 candidates"),
        ("lambda n: Scores([1.0] * n, [])", "3 scores and 0 counts"),
        ("lambda n: Scores([1.0, float('inf'), 1.0], [0] * n)", "returned inf for example b"),
        ("lambda n: Scores(['good'] * n, [0] * n)", "could not convert string to float"),
        ("lambda n: Scores([None] * n, [0] * n)", "which is not Scores"),
        ("lambda n: [1.0] * n", r"returned \[1.0, 1.0, 1.0\], which is not Scores"),
        ("lambda n: None", "returned None, which is not Scores"),
        ("lambda n: {}[n]", "The reward failed: KeyError: 3"),
    ],
)
def test_what_a_reward_returns_is_checked(returned: str, words: str) -> None:
    reward = SimpleNamespace(score=lambda candidates: eval(returned, {"Scores": Scores})(len(candidates)))
    with pytest.raises(RunError, match=words):
        ask(reward, [Candidate(Example(name, "", ""), "", 1.0, 0) for name in "abc"])  # type: ignore[arg-type]


def test_numbers_of_any_library_are_scores() -> None:
    reward = SimpleNamespace(score=lambda candidates: Scores(torch.ones(3) / 2, np.array([1, 2, 3])))
    found = ask(reward, [Candidate(Example(name, "", ""), "", 1.0, 0) for name in "abc"])  # type: ignore[arg-type]
    assert json.dumps([found.values, found.tokens]) == "[[0.5, 0.5, 0.5], [1, 2, 3]]"


def test_what_a_classifier_cannot_do_is_said(tmp_path: Path) -> None:
    folder = save_reward(tmp_path)
    with pytest.raises(RunError, match="exceeds the reward model's limit"):
        load_classifier(folder, max_length=5).score(candidates())
    for file in folder.glob("*chat_template*"):
        file.unlink()
    with pytest.raises(UsageError, match="no chat template"):
        load_classifier(folder)


def test_controls(tmp_path: Path) -> None:
    benchmark = Sudoku(limit=2)
    example = benchmark.examples()[0]
    half = example.reference[:18]
    verifier = (
        Verifier(name="v")
        .loaded(benchmark, 0)
        .score([Candidate(example, half, 0.5, 3), Candidate(example, example.reference, 1.0, 9)])
    )
    assert verifier.values == [0.5, 1.0]
    assert Constant(name="c", value=0.25).score(candidates()).values == [0.25] * 5

    by_progress = [[float(10 * n + i) for i in range(5)] for n in range(10)]
    stored = {"mean": 0, "std": 1, "min": 0, "max": 1, "by_progress": by_progress}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "normalization.json").write_text(json.dumps(stored))
    shuffled = Shuffled(name="s", statistics=str(tmp_path)).loaded(benchmark, 0)
    asked = [Candidate(example, "anything", fill, step) for fill, step in ((0.0, 0), (0.57, 9), (1.0, 17), (0.57, 9))]
    values = shuffled.score(asked).values
    assert [int(v // 10) for v in values] == [0, 5, 9, 5]
    assert values[1] == values[3]
    assert shuffled.score(asked[1:2]).values == [values[1]]  # the same alone as in a batch
    other = [
        Shuffled(name="s", statistics=str(tmp_path)).loaded(benchmark, s).score(asked[1:2]).values[0] for s in range(20)
    ]
    assert len(set(other)) > 2


@pytest.mark.parametrize("stateless", [True, False])
def test_unchanged_text_is_a_hit_where_a_reward_is_stateless_and_cost_goes_to_the_row_that_asked(
    stateless: bool,
) -> None:
    class Lengths(Reward):
        calls = 0

        def score(self, asked: list[Candidate]) -> Scores:
            self.calls += 1
            return Scores([float(len(c.text)) for c in asked], [len(c.text) for c in asked])

    denoiser = SimpleNamespace(text=lambda ids, masks: "".join(map(str, ids)))
    reward = Lengths(name="lengths")
    reward.stateless = stateless  # type: ignore[misc]
    scorer = RowScorer(reward, Renderer(denoiser, "drop", 2), None)  # type: ignore[arg-type]
    scorer.costs = [Cost(), Cost()]
    scorer.enter({0: Example("a", "", ""), 1: Example("b", "", "")})
    assert scorer({0: ([1, 2], 0.0, 0), 1: ([3, 4], 0.0, 0)}) == {0: 2.0, 1: 2.0}
    assert scorer({0: ([1, 2], 0.5, 1), 1: ([3, 14], 0.5, 1)}) == {0: 2.0, 1: 3.0}
    assert scorer({0: ([1, 2], 1.0, 2)}) == {0: 2.0}
    counts = [(c.reward_calls, c.reward_cache_hits, c.reward_tokens) for c in scorer.costs]
    assert counts == ([(1, 2, 2), (2, 0, 5)] if stateless else [(3, 0, 6), (2, 0, 5)])
    scorer.enter({0: Example("c", "", "")})  # another example's text is not remembered
    scorer({0: ([1, 2], 1.0, 2)})
    assert scorer.costs[0].reward_calls == (2 if stateless else 4)


def test_a_composite_sums_z_scores(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward")
    (folder / "normalization.json").write_text(json.dumps({"mean": 0.1, "std": 0.5, "min": -1, "max": 1}))
    benchmark = Sudoku(limit=1)
    example = benchmark.examples()[0]
    asked = [Candidate(Example("e", "w1", example.reference), text, 1.0, 0) for text in (example.reference, "w3")]
    overrides = ["reward=composite", "reward@reward.components.a=classifier", f"reward.components.a.path={folder}",
                 "reward.weights.a=2", "reward.weights.b=-0.5"]  # fmt: skip
    composite = compose(*overrides).reward.loaded(benchmark, 0)
    assert composite is not None
    assert composite.normalization is None
    found = composite.score(asked)
    alone = load_classifier(folder).score(asked)
    partial = [1.0, 0.0]
    expected = [2 * (a - 0.1) / 0.5 - 0.5 * (p - 0.5) * 12**0.5 for a, p in zip(alone.values, partial, strict=True)]
    assert found.values == pytest.approx(expected, abs=1e-4)
    assert found.tokens == alone.tokens
    (folder / "normalization.json").unlink()
    with pytest.raises(UsageError, match=r"reward\.components\.a stores no statistics"):
        compose(*overrides).reward.loaded(benchmark, 0)
