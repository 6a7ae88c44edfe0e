"""Checkpoints of strangers: no Python of theirs runs, and what is wrong with one is a sentence before weights load."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dream_files import save_dream
from safetensors.torch import load_file, save_file
from support import (
    LLADA_TEMPLATE,
    REWARD_SIZE,
    WORDS,
    classifier_settings,
    llada_config,
    llada_weights,
    load_classifier,
    make_settings,
    save_llada,
    save_reward,
    word_tokenizer,
)
from transformers import AutoConfig, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForSequenceClassification

from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.models import chat
from rws_cli.models.base import Model
from rws_cli.models.checkpoint import fingerprint
from rws_cli.models.language_model import load_causal
from rws_cli.runs.doctor import check_components

RUNS = "from pathlib import Path\nPath({ran!r}).mkdir()\nfrom transformers import PreTrainedModel as Own\n"


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who answers every question with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    config = llada_config()
    return save_llada(tmp_path / "llada", config, llada_weights(config))


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON object, or take them out where the value is None."""
    stored = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))


def save_bert(folder: Path, **size: int) -> Path:
    config = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | size
    BertForMaskedLM(BertConfig(**config, intermediate_size=16)).save_pretrained(folder)
    special = {"mask_token": "<|mdm_mask|>", "sep_token": "<|eot_id|>"}
    word_tokenizer(WORDS, **special, chat_template=LLADA_TEMPLATE).save_pretrained(folder)
    return folder


# --- no Python of theirs runs -----------------------------------------------------------------------------------------


CLASSES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForCausalLM",
)
OWN = dict.fromkeys(CLASSES, "own.Own")
PART = {"model_type": "musicgen_decoder", "auto_map": {"AutoModel": "{folder}--own.Own"}}
CODE = {
    "a type that transformers does not know": {"config.json": {"model_type": "own", "auto_map": OWN}},
    "a class that transformers does not have": {"config.json": {"model_type": "clip", "auto_map": OWN}},
    "a part of the model": {"config.json": {"model_type": "modernvbert", "vision_config": PART}},
    "the tokenizer": {
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]},
        }
    },
}


LOADING = {
    "model": lambda folder: make_settings("masked_lm", folder, mask_token_id=2).load(),
    "reward": lambda folder: load_classifier(folder, template="{{ messages[0]['content'] }}"),
    "causal": lambda folder: load_causal("judge", str(folder)),
}


@pytest.mark.parametrize("what", CODE)
@pytest.mark.parametrize("role", LOADING)
def test_a_checkpoints_own_python_does_not_run_whoever_is_asked(
    tmp_path: Path, yes: None, what: str, role: str
) -> None:
    folder = save_bert(tmp_path / "theirs")
    for file, fields in CODE[what].items():
        change(folder / file, **json.loads(json.dumps(fields).replace("{folder}", str(folder))))
    if what == "the tokenizer":
        change(folder / "config.json", model_type="own")
    (folder / "own.py").write_text(RUNS.format(ran=str(tmp_path / "ran")))
    sentence = (
        "needs the Python that comes with it|auto_map for a part|cannot be loaded|no tokenizer that can be loaded"
    )
    with pytest.raises(UsageError, match=sentence) as raised:
        LOADING[role](folder)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read(1) == "y", "nobody was asked"


def test_nor_in_a_dry_run_nor_for_the_doctor(rws, tmp_path: Path, yes: None) -> None:
    folder = save_bert(tmp_path / "theirs")
    change(folder / "config.json", model_type="own", auto_map=OWN)
    (folder / "own.py").write_text(RUNS.format(ran=str(tmp_path / "ran")))
    settings = ["model=masked_lm", f"model.path={folder}", "reward=none", "sampler=confidence"]
    result = rws("run", "--dry-run", *settings)
    assert result.exit_code == 2
    assert "needs the Python that comes with it" in result.output
    found = next(finding for finding in check_components(compose(*settings)) if finding.name == "model=masked_lm")
    assert (found.ok, "needs the Python that comes with it" in found.detail) == (False, True)
    assert not (tmp_path / "ran").exists()


def test_no_kernel_is_fetched_because_a_checkpoint_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)
    folder = save_bert(tmp_path / "bert")
    change(folder / "config.json", attn_implementation="theirs/kernel")
    make_settings("masked_lm", folder).load()
    reward = save_reward(tmp_path / "reward")
    change(reward / "config.json", attn_implementation="theirs/kernel")
    load_classifier(reward)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../other.safetensors", "/etc/passwd", 3])
def test_an_index_names_safetensors_of_its_folder_alone(llada: Path, name: Any) -> None:
    file = llada / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] |= dict.fromkeys(list(index["weight_map"])[:1], name)
    file.write_text(json.dumps(index))
    sentence = "not a safetensors file of the same folder|has a broken model.safetensors.index.json"
    for look in (Model.load, Model.check):
        with pytest.raises(UsageError, match=sentence):
            look(make_settings("llada", llada))


def test_an_adapter_is_no_checkpoint(llada: Path) -> None:
    (llada / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"set model\.adapter=\S+ and model\.path to its base model"):
        make_settings("llada", llada).prepare()


# --- what cannot be read ----------------------------------------------------------------------------------------------


BROKEN = {
    "a list": (b"[]", "is not a JSON object"),
    "a number": (b"3", "is not a JSON object"),
    "null": (b"null", "is not a JSON object"),
    "half": (b'{"a": 1,', "line 1 column 9"),
    "deep": (b"[" * 100_000, "is not JSON in UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "is not JSON in UTF-8"),
    "bytes": (b"\xff\xfe\x00", "is not JSON in UTF-8"),
    "empty": (b"", "is not JSON in UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_config_json_is_said_to_be_broken(llada: Path, what: str) -> None:
    content, words = BROKEN[what]
    (llada / "config.json").write_bytes(content)
    for look in (
        lambda: make_settings("llada", llada).prepare(),
        lambda: classifier_settings(llada).check("reward"),
        lambda: load_causal("judge", str(llada)),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            look()
        assert str(llada) in str(raised.value)
        assert "no folder here" not in str(raised.value)


def test_a_pipe_is_no_file_of_a_checkpoint(llada: Path) -> None:
    """Nobody writes into it: opening it would wait for ever."""
    os.mkfifo(llada / "more.safetensors")
    assert "more.safetensors" not in fingerprint(str(llada), None)["weights"]
    shard = sorted(llada.glob("model-*.safetensors"))[0]
    shard.unlink()
    os.mkfifo(shard)
    for look in (Model.load, Model.check):
        with pytest.raises(UsageError, match=f"lacks {shard.name}"):
            look(make_settings("llada", llada))
    (llada / "config.json").unlink()
    os.mkfifo(llada / "config.json")
    with pytest.raises(UsageError, match=r"no config\.json"):
        make_settings("llada", llada).prepare()


# --- what does not fit ------------------------------------------------------------------------------------------------


V = 50
"""Tokens of llada_config's embedding."""
TOKENS = {
    "a mask beyond": ({"mask_token_id": 99999}, "mask_token_id in config.json is 99999"),
    "a negative mask": ({"mask_token_id": -1}, "mask_token_id in config.json is -1"),
    "a mask as text": ({"mask_token_id": "2"}, "mask_token_id in config.json is '2'"),
    "half a mask": ({"mask_token_id": 1.5}, r"mask_token_id in config.json is 1\.5"),
    "a true mask": ({"mask_token_id": True}, "mask_token_id in config.json is True"),
    "a list of masks": ({"mask_token_id": [2]}, r"mask_token_id in config.json is \[2\]"),
    "an end beyond": ({"eos_token_id": 99999}, "eos_token_id in config.json is 99999"),
    "an end among several": ({"eos_token_id": [0, V]}, f"eos_token_id in config.json is {V}"),
    "an end as text": ({"eos_token_id": "2"}, "eos_token_id"),
    "an end that is the mask": ({"eos_token_id": 2}, "token 2 is the mask and also an end token"),
    "fewer rows than tokens": ({"embedding_size": 40}, "8 of them beyond the model's vocabulary of 40"),
    "no layers": ({"n_layers": None}, "config.json without n_layers"),
    "no width": ({"d_model": None}, "config.json without d_model"),
    "no heads": ({"n_heads": 0}, "config.json that describes no model"),
    "no context": ({"max_sequence_length": None}, "config.json without max_sequence_length"),
    "no MLP": ({"mlp_hidden_size": None, "mlp_ratio": None}, "config.json without mlp_hidden_size and mlp_ratio"),
    "a width in words": ({"d_model": "wide"}, "config.json that describes no model"),
    "another type": ({"model_type": None, "architectures": None}, r"not a checkpoint of model\.kind=llada"),
}


@pytest.mark.parametrize("what", TOKENS)
def test_tokens_and_fields_of_config_json_are_checked_without_weights(llada: Path, what: str, capfd: Any) -> None:
    fields, words = TOKENS[what]
    change(llada / "config.json", **fields)
    with pytest.raises(UsageError, match=words) as raised:
        make_settings("llada", llada).prepare()
    assert "\n" not in str(raised.value)
    assert "".join(capfd.readouterr()) == ""


def test_a_mask_beyond_the_vocabulary_is_refused_on_the_command_line(rws, llada: Path) -> None:
    settings = [f"model.path={llada}", "reward=none", "sampler=confidence"]
    for token in (V, 4096):
        result = rws("run", f"model.mask_token_id={token}", *settings)
        assert result.exit_code == 2, result.output
        assert f"model.mask_token_id is {token}" in result.output
        assert result.output.count("\n") == 1
    assert rws("run", "--dry-run", f"model.mask_token_id={V - 1}", *settings).exit_code == 0


@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size", "hidden_size"])
def test_a_field_that_dream_lacks_is_named(tmp_path: Path, field: str) -> None:
    folder = save_dream(tmp_path)
    change(folder / "config.json", **{field: None})
    with pytest.raises(UsageError, match=f"config.json without {field}"):
        make_settings("dream", folder).prepare()


def test_any_familys_tokenizer_is_held_to_its_embedding(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, vocab_size=30)
    with pytest.raises(UsageError, match="beyond the model's vocabulary of 30"):
        make_settings("masked_lm", folder).prepare()


SHAPES = {
    "another width": (
        {"mlp_hidden_size": 40},
        r"mismatched weights model\.layers\.0\.mlp\.down_proj\.weight \(\[32, 48\]",
    ),
    "more tokens": ({"embedding_size": 70}, r"\[50, 32\] in the file, \[70, 32\] by config.json"),
    "more layers": ({"n_layers": 4}, r"missing weights model\.layers\.3\.\S+, \S+, \S+ and 6 more"),
    "fewer layers": ({"n_layers": 2}, "unexpected weights"),
}


@pytest.mark.parametrize("what", SHAPES)
def test_weights_that_do_not_fit_are_named_with_their_shapes(llada: Path, what: str, capfd: Any) -> None:
    """By loading, and from the headers alone."""
    fields, words = SHAPES[what]
    change(llada / "config.json", **fields)
    said = set()
    for look in (Model.load, Model.check):
        with pytest.raises(UsageError, match=words) as raised:
            look(make_settings("llada", llada))
        said.add(str(raised.value))
    assert len(said) == 1
    assert "REPORT" not in "".join(capfd.readouterr())


def test_no_weight_is_read_to_check_that_weights_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_bert(tmp_path / "bert")
    file = folder / "model.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    content = bytearray(file.read_bytes())
    content[header:] = b"\xff" * (len(content) - header)  # NaN, all of them
    file.write_bytes(content)
    make_settings("masked_lm", folder).check()
    file.write_bytes(content[:-4])
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be loaded: .*corrupt or partial"):
        make_settings("masked_lm", folder).check()


def test_a_reward_has_one_label(tmp_path: Path) -> None:
    size = REWARD_SIZE | {"num_labels": 2}
    torch.manual_seed(0)
    LlamaForSequenceClassification(LlamaConfig(**size, pad_token_id=1)).save_pretrained(tmp_path / "two")
    for file in save_reward(tmp_path / "one").iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    classifier_settings(tmp_path / "one").check("reward")
    for look in (lambda s: s.check("reward"), lambda s: s.loaded(None, 0)):
        with pytest.raises(UsageError, match=r"reward\.path=\S+ has 2 labels; a reward has one"):
            look(classifier_settings(tmp_path / "two"))


def test_a_dry_run_looks_at_the_reward_too(rws, llada: Path, tmp_path: Path) -> None:
    reward = save_reward(tmp_path / "reward")
    settings = [f"model.path={llada}", "benchmark.limit=1", "reward=classifier", f"reward.path={reward}"]
    settings += ["sampler=best_of_n"]
    assert rws("run", "--dry-run", *settings).exit_code == 0
    weights = load_file(reward / "model.safetensors")
    weights["score.weight"] = torch.zeros(3, 32)
    save_file(weights, reward / "model.safetensors", metadata={"format": "pt"})
    result = rws("run", "--dry-run", *settings)
    assert result.exit_code == 2
    assert "has 3 labels; a reward has one" in result.output
    (reward / "chat_template.jinja").unlink()
    findings = {finding.name: finding for finding in check_components(compose(*settings))}
    assert findings["model=tiny"].ok
    assert not findings["reward=classifier"].ok
    assert "has no chat template: set reward.template" in findings["reward=classifier"].detail


# --- chat templates ---------------------------------------------------------------------------------------------------


TEMPLATES = {
    "raises": ("{{ raise_exception('no such role') }}", "TemplateError: no such role"),
    "an undefined name": ("{{ nothing.at.all }}", "UndefinedError"),
    "no Jinja": ("{% for %}", "TemplateSyntaxError"),
    "a division by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "a range too big": ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
    "a file": ("{% include '/etc/passwd' %}", "The chat template of model fails"),
    "a way out of the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "too deep": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
}


@pytest.mark.parametrize("what", TEMPLATES)
def test_a_template_that_fails_is_one_sentence(llada: Path, what: str) -> None:
    template, words = TEMPLATES[what]
    (llada / "chat_template.jinja").write_text(template)
    with pytest.raises(UsageError, match=words) as raised:
        make_settings("llada", llada).prepare().encode("w1 w2")
    assert "\n" not in str(raised.value)


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "powers": "{{ 7 ** (9 ** 9) }}",
    "memory": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "letters": "{{ 'x' * 10 ** 8 }}",
    "many letters": "{% for i in range(999) %}{{ messages[0]['content'] * 10 ** 7 }}{% endfor %}",
}


@pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux alone")
@pytest.mark.parametrize("what", ENDLESS)
def test_a_template_without_an_end_is_stopped(llada: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(chat, "PROCESSOR_SECONDS", 1)
    monkeypatch.setattr(chat, "MEMORY", 1 << 28)
    (llada / "chat_template.jinja").write_text(ENDLESS[what])
    with pytest.raises(UsageError, match="The chat template of model does not end"):
        make_settings("llada", llada).prepare()


def test_a_rewards_template_is_tried_before_its_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rws_cli.models.loading.load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
    folder = save_reward(tmp_path)
    with pytest.raises(UsageError, match=r"The chat template of reward fails: TemplateError: no"):
        load_classifier(folder, template="{{ raise_exception('no') }}")
    if sys.platform == "linux":
        with pytest.raises(UsageError, match="The chat template of reward does not end"):
            load_classifier(folder, template=ENDLESS["letters"])


def test_the_library_would_run_the_python_of_a_part(tmp_path: Path) -> None:
    """Why parts with an auto_map are refused: transformers hands them on, whatever it was asked about the whole."""
    (tmp_path / "config.json").write_text(json.dumps(CODE["a part of the model"]["config.json"]))
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert config.vision_config.auto_map
