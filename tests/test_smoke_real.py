"""scripts/smoke_real.py on stand-ins: small random checkpoints in the format of the real ones, and a hub that is made up."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from decoder_files import QWEN_SPECIAL, QWEN_TEMPLATE, save_a2d, save_byte_tokenizer
from transformers import Qwen3Config, Qwen3ForSequenceClassification

SCRIPT = Path(__file__).parents[1] / "scripts" / "smoke_real.py"
PROBLEMS = [
    {"question": f"Ada has {n} pens and buys {n} more. How many pens has she?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"}
    for n in (2, 5)
]  # fmt: skip


@pytest.fixture(scope="module")
def smoke() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke_real", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tied Qwen3 whose head is stored too, as dllm-hub's; a Qwen3 classifier with one label, as Skywork's; problems."""
    folder = tmp_path_factory.mktemp("hub")
    for name in ("bd3lm", "mdlm"):
        save_a2d(folder / name, head=True, max_position_embeddings=512)
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=1024, num_labels=1, tie_word_embeddings=True, pad_token_id=256,
    )  # fmt: skip
    Qwen3ForSequenceClassification(config).save_pretrained(folder / "reward")
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    save_byte_tokenizer(folder / "reward", QWEN_SPECIAL, QWEN_TEMPLATE, **named)
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return {name: str(folder / name) for name in ("bd3lm", "mdlm", "reward")} | {"data": str(folder / "problems.jsonl")}


def test_it_calibrates_decodes_and_compares(
    rws: Any, smoke: ModuleType, stand_ins: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed: list[list[str]] = []

    def type_(words: list[str]) -> tuple[float, int]:
        result = rws(*words)
        assert result.exit_code == 0, result.output
        typed.append(words)
        return 1.5, 3 << 30

    settings = {"examples": 2, "gen_length": 32, "tokens_per_step": 8, "dtype": "float32", "output": "outputs"}
    rows = smoke.decode("bd3lm", argparse.Namespace(**stand_ins, **settings), type_)
    assert [words[0] for words in typed] == ["calibrate", "run", "run", "compare"]
    smoke.print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-3:]] == [
        ["qwen3_0_6b_bd3lm", "calibrate"],
        ["qwen3_0_6b_bd3lm", "confidence"],
        ["qwen3_0_6b_bd3lm", "rws"],
    ]
    assert all(line.endswith("1.5      3.00") for line in lines[-3:])
    for row, line in zip(rows[1:], lines[-2:], strict=True):
        assert row["metrics"]["examples"] == 2
        assert f"{row['metrics']['reward']:.3f}" in line
        assert f"{row['metrics']['cost']['mdm_passes'] / 2:.0f}" in line.split()


def test_sizes_are_printed_before_a_download(
    smoke: ModuleType, stand_ins: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"model.safetensors": 1_500_000_000, "config.json": 1000, "pytorch_model.bin": 9_000_000_000, "logo.png": 5}

    class Api:
        def model_info(self, name: str, files_metadata: bool) -> Any:
            assert files_metadata
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=f, size=s) for f, s in files.items()])

    smoke.print_sizes({"bd3lm": "dllm-hub/a", "mdlm": "dllm-hub/b", "reward": stand_ins["reward"]}, Api())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  1.50 GB  dllm-hub/a"
    assert lines[2].endswith("reward  (a folder here)")
    assert lines[3].startswith("  3.00 GB  to download at most")
    files["model.safetensors"] = 10**18
    with pytest.raises(SystemExit, match="The disk has no room"):
        smoke.print_sizes({"mdlm": "dllm-hub/b"}, Api())


@pytest.mark.slow
def test_the_script_runs_from_end_to_end(tmp_path: Path, stand_ins: dict[str, str]) -> None:
    arguments = [f"--{name}={value}" for name, value in stand_ins.items()]
    arguments += ["--examples=2", "--gen-length=32", "--tokens-per-step=8", f"--output={tmp_path / 'outputs'}"]
    result = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=tmp_path, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    table = [line.split() for line in result.stdout.splitlines()[-6:]]
    assert [row[:2] for row in table] == [
        [f"qwen3_0_6b_{name}", what] for name in ("bd3lm", "mdlm") for what in ("calibrate", "confidence", "rws")
    ]
    assert all(0 < float(row[-1]) < 4 and float(row[-2]) > 0 for row in table)
    broken = subprocess.run([sys.executable, SCRIPT, *arguments, "--gen-length=0"], capture_output=True, cwd=tmp_path)
    assert broken.returncode != 0
