"""Reward models that only their own Python loads: refused without the switch, scored as their code says with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import REWARD_WORDS, word_tokenizer

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.rewards.base import Candidate

PIN = "0123456789" * 4
CODE = '''
from types import SimpleNamespace
import torch
from transformers import LlamaConfig, PreTrainedModel

class Reward(PreTrainedModel):
    """The sum of a number for each token: what a head that no native class has might be."""
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.worth = torch.nn.Embedding(config.vocab_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask):
        total = (self.worth(input_ids)[..., 0] * attention_mask).sum(-1)
        return {returns}
'''
STYLES = {
    "intern": ("AutoModel", "SimpleNamespace(logits=total[:, None])"),
    "eurus": ("AutoModel", "total[:, None]"),
    "qrm": ("AutoModelForSequenceClassification", "SimpleNamespace(score=total)"),
}
TOKENS = [*REWARD_WORDS, "<|im_start|>user", "<|im_start|>assistant", "<|reward|>", "[INST]", "[\\INST]", "<s>"]


def save_remote(folder: Path, name: str) -> tuple[Path, torch.Tensor]:
    """A checkpoint whose class is in its own folder, as the preset's is; and its numbers."""
    auto_class, returns = STYLES[name]
    folder.mkdir()
    (folder / f"modeling_{name}.py").write_text(CODE.replace("{returns}", returns))
    worth = torch.arange(len(TOKENS), dtype=torch.float32)[:, None] / 7
    save_file({"worth.weight": worth}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "vocab_size": len(TOKENS), "auto_map": {auto_class: f"modeling_{name}.Reward"},
              "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    word_tokenizer(TOKENS, eos_token="<end>", pad_token="<pad>", chat_template=template).save_pretrained(folder)
    return folder, worth[:, 0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("intern", "<|im_start|>user w1<|im_end|> <|im_start|>assistant w2 w3<|im_end|> <|reward|>"),
        ("eurus", "<s>[INST] w1 [\\INST] w2 w3"),
        ("qrm", "w1 w2 w3"),
    ],
)
def test_presets_score_with_the_checkpoints_own_code(tmp_path: Path, name: str, text: str) -> None:
    folder, worth = save_remote(tmp_path / name, name)
    settings = compose(
        f"reward={name}",
        f"reward.path={folder}",
        "trust_remote_code=true",
        f"pins.{name}={PIN}",
        "reward.attention=eager",
    ).reward
    found = settings.loaded(None, 0).score([Candidate(Example("e", "w1", ""), "w2 w3", 1.0, 0)])
    words = [word if word in TOKENS else "<unk>" for word in text.split()]
    assert found.tokens == [len(words)]
    assert found.values == pytest.approx([float(sum(worth[TOKENS.index(word)] for word in words))])


@pytest.mark.parametrize("name", STYLES)
def test_without_the_switch_and_a_pin_nothing_runs(name: str) -> None:
    with pytest.raises(UsageError, match=rf"trust_remote_code=true and pins\.{name}="):
        compose(f"reward={name}")
    with pytest.raises(UsageError, match="pin it with"):
        compose(f"reward={name}", "trust_remote_code=true")
    with pytest.raises(UsageError, match="pin it with"):
        compose(f"reward={name}", "trust_remote_code=true", f"pins.{name}=main")


def test_the_switch_leaves_native_rewards_alone() -> None:
    assert compose("reward=skywork", "trust_remote_code=true").reward.trust_remote_code is False
