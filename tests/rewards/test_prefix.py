"""A causal reward model that reads on from the first change gives the scores of reading all."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import (
    REWARD_FAMILIES,
    REWARD_SIZE,
    REWARD_TEMPLATE,
    REWARD_WORDS,
    load_classifier,
    save_reward,
    word_tokenizer,
)
from transformers import LlamaConfig, LlamaForSequenceClassification

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.rewards.base import Candidate


def candidate(row: int, words: list[str]) -> Candidate:
    return Candidate(
        Example("e", " ".join(f"w{row + n}" for n in range(1 + 3 * row)), ""), " ".join(words), 1.0, 0, slot=row
    )


@pytest.mark.parametrize("family", REWARD_FAMILIES)
def test_scores_along_a_decoding_are_those_of_each_text_alone(tmp_path: Path, family: str) -> None:
    """Rows change here and there, come and go, grow and shrink, two to a batch; another answer may take a slot."""
    reward = load_classifier(save_reward(tmp_path, family, pad=family == "llama"))
    alone = load_classifier(tmp_path)
    alone.prefixes = None
    assert reward.prefixes is not None
    draw = random.Random(0)
    texts = {row: [f"w{draw.randrange(20)}" for _ in range(4 + 5 * row)] for row in range(4)}
    read = whole = 0
    for step in range(30):
        for words in texts.values():
            if words:
                words[draw.randrange(len(words))] = f"w{draw.randrange(20)}"
        if step == 10:
            texts[0], texts[3] = texts[3], []
        if step == 20:
            texts[2] += ["w1"] * 90  # beyond the room that was made
        asked = [candidate(row, words) for row, words in texts.items() if draw.random() < 0.8]
        if step % 7 == 3:
            asked = [replace(c, slot=None) if draw.random() < 0.5 else c for c in asked]
        if not asked:
            continue
        found, expected = reward.score(asked), alone.score(asked)
        assert found.values == pytest.approx(expected.values, abs=1e-5)
        read, whole = read + sum(found.tokens), whole + sum(expected.tokens)
    assert read < 0.75 * whole
    assert reward.score(asked).tokens[0] == 1  # nothing has changed: the last token is read
    assert reward.score([replace(asked[0], slot=None)]).tokens == [expected.tokens[0]]


def test_a_text_may_stand_in_one_call_twice(tmp_path: Path) -> None:
    """What is kept is the last one's, whole."""
    reward = load_classifier(save_reward(tmp_path), batch_size=8)
    short, long = candidate(1, ["w1", "w2", "w3"]), candidate(1, ["w1", "w4", "w5", "w6", "w7"])
    reward.score([long, short])
    one, other = reward.score([long, replace(long, slot=None)]).values
    assert one == pytest.approx(other, abs=1e-5)


def test_a_model_that_looks_ahead_or_slides_reads_all(tmp_path: Path) -> None:
    assert compose("reward=tiny").reward.loaded(None, 0).prefixes is None  # bidirectional
    torch.manual_seed(0)
    config = LlamaConfig(**REWARD_SIZE, pad_token_id=1)
    config.sliding_window = 4
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = word_tokenizer(REWARD_WORDS, eos_token="<end>", pad_token="<pad>", chat_template=REWARD_TEMPLATE)
    tokenizer.save_pretrained(tmp_path)
    assert load_classifier(tmp_path).prefixes is None
