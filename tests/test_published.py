"""The settings and figures that models' authors publish: they compose, agree with their comments, and name their sources."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rws_cli.config.catalog import files
from rws_cli.config.composing import compose_one
from rws_cli.config.schema import Config

PUBLISHED = {
    name.partition("/")[2]: path.read_text(encoding="utf-8")
    for name, (path, _) in files("experiment").items()
    if name.startswith("published/")
}
TASKS = {"gsm8k", "math500", "humaneval", "mbpp"}
SETTING = {
    **{name: f"sampler.{name}" for name in ("gen_length", "block_length", "steps", "temperature", "top_p", "eos")},
    **{name: f"sampler.schedule.{name}" for name in ("threshold", "edit_threshold")},
    **{name: f"benchmark.{name}" for name in ("shots", "completions")},
}
"""The words of a file's comment → the settings that they state."""
SOURCE = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}|arXiv \d{4}\.\d{5}|model card of [\w.-]+/[\w.-]+")
"""A repository at a commit, a paper, or a model card."""


def comment(text: str, name: str) -> str:
    """What follows "# name:" in a file; "" if there is no such line."""
    line = re.search(rf"^# {name}: (.+)$", text, re.MULTILINE)
    return line[1] if line else ""


def stated(text: str) -> dict[str, Any]:
    """The settings that a file's comment states."""
    pairs = (each.split() for each in comment(text, "Settings").split(", "))
    return {name: yaml.safe_load(value) for name, value in pairs}


def chosen(text: str) -> dict[str, str]:
    """The preset of each group that a file chooses."""
    defaults = yaml.safe_load(text)["defaults"]
    return {key.removeprefix("override /"): value for each in defaults for key, value in each.items()}


@cache
def composed(experiment: str) -> Config:
    """The configuration of `rws run +experiment=published/NAME`, checked as a run's is."""
    config, _ = compose_one(f"experiment=published/{experiment}")
    return config


def test_at_most_two_tasks_per_model() -> None:
    models = [chosen(text)["model"] for text in PUBLISHED.values()]
    assert len(models) == len(PUBLISHED) > 30
    assert max(map(models.count, models)) <= 2


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_file_is_named_for_its_model_and_task(experiment: str) -> None:
    presets = chosen(PUBLISHED[experiment])
    assert presets.keys() == {"model", "benchmark", "sampler", "reward"}
    assert presets["benchmark"] in TASKS
    assert experiment == f"{presets['model']}_{presets['benchmark']}"
    assert f"# rws run +experiment=published/{experiment}" in PUBLISHED[experiment]


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_settings_are_those_of_the_comment(experiment: str) -> None:
    config, settings = composed(experiment), stated(PUBLISHED[experiment])
    assert {"gen_length", "block_length", "temperature", "eos", "shots"} <= settings.keys()
    assert settings.keys() & {"steps", "threshold"}
    for name, value in settings.items():
        assert attrgetter(SETTING[name])(config) == value, name


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_no_setting_is_missing_from_the_comment(experiment: str) -> None:
    """Whatever a file sets in the sampler, and the shots and completions that it sets."""
    values = yaml.safe_load(PUBLISHED[experiment])
    sampler = values["sampler"]
    written = {**sampler, **sampler.pop("schedule", {}), **values.get("benchmark", {})}
    written = {name: value for name, value in written.items() if name in SETTING}
    assert written.items() <= stated(PUBLISHED[experiment]).items()


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_job_uses_no_reward_and_its_sampler_has_the_steps(experiment: str) -> None:
    config, settings = composed(experiment), stated(PUBLISHED[experiment])
    assert not config.reward.scores
    if "steps" in settings:
        assert config.sampler.steps_per_block * config.sampler.blocks == settings["steps"]
    if config.model.topology.block_size is not None:
        assert config.model.topology.block_size % config.sampler.block_length == 0
    assert config.benchmark.completions == settings.get("completions", 1)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_settings_and_figures_name_their_sources(experiment: str) -> None:
    text = PUBLISHED[experiment]
    assert SOURCE.search(comment(text, "Source"))
    table = yaml.safe_load(text).get("table")
    if table is None:
        assert "did not read" in comment(text, "Source") or "alone" in comment(text, "Source")
        return
    assert list(table["published"]) == [chosen(text)["sampler"]]
    (figures,) = table["published"].values()
    assert figures.keys() == {"accuracy"} <= set(table["columns"])
    assert 0 < figures["accuracy"] < 100
    (line,) = [line for line in text.splitlines() if "accuracy:" in line]
    assert SOURCE.search(line.partition(" # ")[2])


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_the_figure_stands_beside_the_run_of_its_name(experiment: str) -> None:
    config = composed(experiment)
    if config.table:
        assert list(config.table.published) == [config.label or config.sampler.name]
        assert config.table.title


def test_figures_read_again_from_their_sources() -> None:
    figures = {
        name: next(iter(yaml.safe_load(text)["table"]["published"].values()))["accuracy"]
        for name, text in PUBLISHED.items()
        if "table:" in text
    }
    assert figures == {
        "llada_gsm8k": 78.6, "llada_humaneval": 49.4, "llada_1_5_gsm8k": 83.8, "llada_1_5_humaneval": 52.4,
        "llada_base_gsm8k": 70.3, "llada_base_humaneval": 35.4, "dream_humaneval": 63.4, "dream_coder_humaneval": 82.9,
        "diffucoder_humaneval": 73.2, "qwen3_0_6b_bd3lm_gsm8k": 46.3, "qwen3_0_6b_bd3lm_humaneval": 46.3,
        "qwen3_0_6b_mdlm_gsm8k": 29.3, "qwen3_0_6b_mdlm_humaneval": 30.5, "qwen2_5_coder_0_5b_bd3lm_humaneval": 39.0,
        "qwen2_5_coder_0_5b_bd3lm_mbpp": 33.2, "sdar_1_7b_gsm8k": 80.1, "sdar_1_7b_math500": 63.2,
        "sdar_8b_gsm8k": 91.3, "sdar_8b_math500": 78.6, "trado_4b_gsm8k": 90.3, "trado_4b_math500": 71.8,
        "trado_8b_gsm8k": 91.2, "trado_8b_math500": 75.5, "fast_dllm_v2_1_5b_gsm8k": 62.0,
        "fast_dllm_v2_7b_gsm8k": 83.7, "llada2_mini_gsm8k": 94.24, "llada2_mini_humaneval": 86.59,
    }  # fmt: skip


def test_a_run_prints_its_table_with_the_figure(rws, tmp_path: Path) -> None:
    """With the bundled model and short completions; one run is enough for a table."""
    (tmp_path / "q.jsonl").write_text('{"question": "3+4=", "answer": "7"}\n')
    smaller = ["model=tiny", "benchmark.path=q.jsonl", "benchmark.shots=0", "benchmark.template='{question}'"]
    result = rws("run", "+experiment=published/llada_gsm8k", *smaller, "sampler.gen_length=16", "sampler.steps=16")
    assert result.exit_code == 0, result.output
    result = rws("table", "outputs/gsm8k/tiny-confidence/v001")
    assert result.exit_code == 0, result.output
    assert re.search(r"\| confidence \| [\d.]+ \| 78\.6 \| 16\.00 \|", result.output)
