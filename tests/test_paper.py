"""The paper's experiments: the full ones compose with every method; the small ones run, at reduced size, to a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from rws_cli.config.catalog import CONF, choices
from rws_cli.config.check import check
from rws_cli.config.composing import unchecked
from rws_cli.config.schema import Config
from rws_cli.guidance.rws import Rws

PAPER = [name for name in choices("experiment") if name.startswith("paper/")]
SMALL = [name for name in choices("experiment") if name.startswith("small/")]
PINS = [f"pins.{name}={'0' * 40}" for name in ("intern", "eurus", "qrm")]
SIX = ["Skywork", "LlamaOB", "Intern", "Eurus", "GRM", "QRM"]


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    OmegaConf.register_new_resolver("rws_sweep", lambda output: output, replace=True)
    if not hydra:
        return unchecked(*overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def jobs(experiment: str) -> dict[str, Config]:
    """The checked configuration of each of an experiment's methods, by its label."""
    given = [f"+experiment={experiment}", "trust_remote_code=true", *PINS]
    params = composed(*given, hydra=True).hydra.sweeper.params
    found = [check(composed(*given, f"+method={method}")) for method in params["+method"].split(",")]
    assert len({config.label for config in found}) == len(found)
    return {config.label: config for config in found}


def test_every_experiment_of_the_paper_has_one_in_small() -> None:
    assert [name.partition("/")[2] for name in PAPER] == [name.partition("/")[2] for name in SMALL]
    assert len(PAPER) == 8


@pytest.mark.parametrize("experiment", [*(pytest.param(name, marks=pytest.mark.slow) for name in PAPER), *SMALL])
def test_all_jobs_of_an_experiment_compose(experiment: str) -> None:
    configs = jobs(experiment)
    first, *others = configs.values()
    assert first.sampler.guidance.kind == "none"
    assert all(config.benchmark == first.benchmark for config in others)
    assert all(config.sampler.steps_per_block == first.sampler.steps_per_block for config in others)
    assert first.table.columns
    assert set(first.table.published) <= set(configs)
    assert {column for row in first.table.published.values() for column in row} <= set(first.table.columns)
    if experiment.startswith("paper/"):
        assert first.model.name == "llada"
    else:
        assert all(config.model.name == "tiny" for config in configs.values())


@pytest.mark.parametrize(
    "experiment",
    [
        "standard",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("multi_turn", "code", "quintiles", "diversity", "overhead")
        ),
    ],
)
def test_the_six_reward_models_stand_against_default(experiment: str) -> None:
    configs = jobs(f"paper/{experiment}")
    assert sorted(configs) == sorted(["default", *SIX])
    steered = [config for config in configs.values() if isinstance(config.sampler.guidance, Rws)]
    assert len({config.reward.name for config in steered}) == 6


def test_the_eight_temperatures() -> None:
    configs = jobs("paper/temperature")
    scales = {
        label: config.sampler.guidance.scale
        for label, config in configs.items()
        if config.sampler.guidance.kind == "constant_scale"
    }
    assert scales == {f"T = {t:g}": 1 / t for t in (0.01, 0.1, 2, 4, 8, 16, 32)}
    assert configs["T = 1"].sampler.guidance.kind == "none"


def test_the_published_quintiles_are_those_of_the_paper() -> None:
    """Eurus' and Skywork's rows of the paper's second table, read again from the text."""
    published = jobs("paper/quintiles")["default"].table.published
    assert list(published["Eurus"].values()) == [36.7, 48.9, 52.7, 59.6, 70.0]
    assert list(published["Skywork"].values()) == [46.7, 53.3, 57.8, 64.4, 72.2]
    assert sorted(published) == sorted(SIX)


FAST = ("small/standard",)
RUNS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]


@pytest.mark.parametrize("experiment", RUNS)
def test_a_small_experiment_runs_to_its_table(rws, experiment: str, tmp_path: Path) -> None:
    methods = ["default" if "temperature" not in experiment else "t1", "rws_tiny"]
    reduced = [f"+method={','.join(methods)}", "benchmark.limit=6", "seed=0", "sampler.tokens_per_step=12"]
    if any(config.benchmark.completions > 1 for config in jobs(experiment).values()):
        reduced.append("benchmark.completions=5")
    result = rws("run", f"+experiment={experiment}", *reduced)
    assert result.exit_code == 0, result.output
    sweep = tmp_path / "outputs" / "multirun" / "v001"
    assert {"table.md", "table.csv", "table.tex", "sweep.csv"} <= {path.name for path in sweep.iterdir()}
    columns = list(jobs(experiment)["RWS"].table.columns)
    with (sweep / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(rows[1].get(column) for column in columns if not column.startswith("win_rate."))
    metrics = json.loads((sweep / "1" / "metrics.json").read_text())
    if "accuracy" in columns:
        assert float(rows[1]["accuracy"]) == pytest.approx(metrics["accuracy"])
    if "reversals" in columns:
        assert float(rows[1]["reversals"]) == pytest.approx(metrics["guidance"]["reversals"])
    markdown = (sweep / "table.md").read_text()
    (sweep / "table.md").unlink()
    again = rws("table", str(sweep))
    assert again.exit_code == 0, again.output
    assert again.output.strip() == markdown.strip()
    assert (sweep / "table.md").read_text() == markdown
