"""CONTRIBUTING.md is run: what it asks newcomers to write works exactly as written, and has an effect."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import WORDS, samples_of, word_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM
from typer.testing import Result

from rws_cli import registry
from rws_cli.runs.records import read_trace

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {
    first.removeprefix("# "): rest
    for language, block in BLOCKS
    if language in ("python", "yaml")
    for first, _, rest in [block.partition("\n")]
}
ADDITIONS = [block for language, block in BLOCKS if language == "markdown"]
"""What parts add to METHODS.md: two lines that are there (a heading, or a table's header), then a section or a row."""
COMMANDS = {line.split()[2]: line for language, block in BLOCKS if language == "sh" for line in block.splitlines()}
"""Commands by their first override."""

Type = Callable[..., Result]


@pytest.fixture
def typed(rws: Type, tmp_path: Path) -> Iterator[Type]:
    """Run a command with all files from the text added."""
    added, before = tmp_path / "added", set(sys.modules)
    for name, content in FILES.items():
        (added / name).parent.mkdir(parents=True, exist_ok=True)
        (added / name).write_text(content)

    def type_(command: str, *arguments: str) -> Result:
        assert command == "run"
        result = rws("run", "--parts", str(added / "rws_cli"), "--config-dir", str(added / "conf"), *arguments)
        assert result.exit_code == 0, result.output
        return result

    yield type_
    registry.set_folders([])
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def run(typed: Type, tmp_path: Path) -> Callable[..., Path]:
    """Run the text's command for a choice, with more overrides, and return the run's folder."""

    def run_(choice: str, *more: str) -> Path:
        line = COMMANDS[choice]
        result = typed(*shlex.split(line)[1:], *more)
        return tmp_path / result.output.splitlines()[-1]

    return run_


def committed(run: Path) -> list[list[int]]:
    """How many tokens each step committed, by example."""
    return [[row["step"].count(step) for step in dict.fromkeys(row["step"])] for row in read_trace(run)]


def test_every_block_is_a_file_or_a_command_that_is_run_here() -> None:
    assert all(re.match(r"(rws_cli|conf|tests)/\S+\.(py|yaml)$", name) for name in FILES)
    configured = {name.split("/")[-1].removesuffix(".yaml") for name in FILES if name.endswith(".yaml")}
    assert {re.sub(r"[\[\]]", "", choice.split("=")[1]) for choice in COMMANDS} == configured
    source = Path(__file__).read_text()
    assert all(f'run("{choice}"' in source for choice in COMMANDS)


@pytest.mark.slow
def test_the_tests_of_this_project_pass_with_all_parts_in_place(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("rws_cli", "conf", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "RESULTS.md", "SECURITY.md"):
        shutil.copy(ROOT / file, tree)
    for name, content in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    methods = (ROOT / "METHODS.md").read_text()
    for block in ADDITIONS:
        place = "".join(block.splitlines(keepends=True)[:2])
        assert methods.count(place) == 1
        methods = methods.replace(place, block)
    (tree / "METHODS.md").write_text(methods)
    tests = [f"tests/{name}" for name in ("test_registry.py", "test_methods_md.py", "test_samplers.py")]
    chosen = "modules or source or methods_md or cautious"  # of test_samplers.py, which takes long, one
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-k", chosen, *tests]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_the_worked_example_is_short() -> None:
    worked = [content for name, content in FILES.items() if "right_to_left" in name]
    assert len(worked) == 3
    assert sum(len(content.splitlines()) + 1 for content in worked) + 1 < 40


def test_its_own_test_passes(typed: Type, small: list[str], tmp_path: Path) -> None:
    (name,) = (name for name in FILES if name.startswith("tests/"))
    spec = importlib.util.spec_from_file_location("example", tmp_path / "added" / name)
    assert spec and spec.loader  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for key, value in vars(module).items() if key.startswith("test_")]
    assert tests
    fixtures = {"rws": typed, "small": small, "tmp_path": tmp_path}
    for test in tests:
        test(**{parameter: fixtures[parameter] for parameter in inspect.signature(test).parameters})


def test_an_order(run) -> None:
    traces = read_trace(run("sampler=right_to_left"))
    assert all(row["position"] == list(range(35, -1, -1)) for row in traces)
    assert len(traces) == 2


def test_a_sampler(run) -> None:
    folder = run("sampler=cautious")
    for row, steps in zip(read_trace(folder), committed(folder), strict=True):
        assert all(1.0 < scale < 1.5 for scale in row["scale"])  # 1 + 0.5 · sigmoid
        assert len(steps) < 36
        alone = [row["step"].count(step) == 1 for step in row["step"]]
        assert all(one or c >= 0.8 for one, c in zip(alone, row["confidence"], strict=True))


def test_a_schedule(run) -> None:
    assert committed(run("sampler=doubling")) == [[1, 2, 4, 8, 16, 5]] * 2
    more = run("sampler=doubling", "sampler.schedule.first=3", "sampler.order=right_to_left", "sampler.block_length=18")
    assert committed(more) == [[3, 6, 9] * 2] * 2
    assert all(row["position"][:3] == [15, 16, 17] for row in read_trace(more))


def test_a_reward(run) -> None:
    folder = run("reward=length")
    for sample in samples_of(folder):
        assert sample["reward"] == 1 / (1 + abs(len(sample["completion"].split()) - 7))
        assert sample["cost"]["reward_calls"] > 0
        assert sample["cost"]["reward_tokens"] == 0
    assert len({reward for row in read_trace(folder) for reward in row["reward"]}) > 1


def test_a_reward_as_part_of_another(typed: Type, tmp_path: Path) -> None:
    overrides = ["reward=composite", "reward@reward.components.a=length", "reward.components.a.words=3"]
    typed("run", *overrides, "sampler=confidence", "sampler.tokens_per_step=6", "benchmark.limit=1")
    sample = samples_of(tmp_path / "outputs/sudoku/tiny-confidence/latest")[0]
    length, right = 1 / (1 + abs(len(sample["completion"].split()) - 3)), sample["grade"]["partial"]
    assert sample["reward"] == pytest.approx((length - 0.5) / 0.3 + (right - 0.5) * 12**0.5)


def test_a_benchmark(run) -> None:
    samples = samples_of(run("benchmark=copying"))
    assert len(samples) == 3
    for sample in samples:
        assert sample["prompt"] == f"repeat {sample['reference']}"
        reference, words = sample["reference"].split(), sample["completion"].split()
        assert sample["grade"]["partial"] == sum(a == b for a, b in zip(reference, words, strict=False)) / 4
        assert len(sample["tokens"]) == 8


def save_qwen3(folder: Path) -> Qwen3ForCausalLM:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, **tokens)).eval()
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_token_id": 2}))
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    word_tokenizer(WORDS, eos_token=WORDS[0], pad_token=WORDS[0], chat_template=template).save_pretrained(folder)
    return model


def test_a_model_family(run, tmp_path: Path) -> None:
    model = save_qwen3(tmp_path / "checkpoint")
    folder = run("model=qwen3", f"model.path={tmp_path / 'checkpoint'}", "sampler=confidence")
    assert committed(folder) == [[6] * 6] * 2
    trace, sample = read_trace(folder)[0], samples_of(folder)[0]
    # The first step's confidences, by a forward pass in which every position attends to every other.
    tokenizer = word_tokenizer(WORDS)
    prompt = tokenizer(sample["prompt"] + " ").input_ids
    tokens = torch.tensor([[*prompt, *[2] * 36]])
    mask = torch.zeros(1, 1, tokens.shape[1], tokens.shape[1])
    with torch.no_grad():
        p = model(input_ids=tokens, attention_mask=mask).logits[0, len(prompt) :].softmax(-1)
    for n in range(6):
        assert trace["confidence"][n] == pytest.approx(float(p[trace["position"][n], trace["token"][n]]), abs=1e-5)


def test_a_guidance(run) -> None:
    for row in read_trace(run("guidance=fading")):
        assert row["scale"] == pytest.approx([1 + 1 / (1 + position) for position in row["position"]])


def test_a_metric(run) -> None:
    samples = samples_of(run("metric=[digits]"))
    assert [s["measures"]["digits.digits"] for s in samples] == [
        sum(map(str.isdigit, s["completion"])) for s in samples
    ]
    assert sum(s["measures"]["digits.digits"] for s in samples) > 0
