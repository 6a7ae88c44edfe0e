"""Every sampler on the bundled model: it runs, costs no more than its plan says, and is the same in any batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import samples_of

from rws_cli.config.catalog import choices
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError
from rws_cli.runs.batch_decoder import BatchDecoder
from rws_cli.runs.plan import plan
from rws_cli.runs.prepared import load, prepare

SAMPLERS = [name for name in choices("sampler") if name != "recorded_scale"]
SPARE = {
    "entrgi": ["sampler.search.particles=2"],
    "particle_gibbs": ["sampler.search.particles=2"],
    "e_smc": ["sampler.search.particles=2"],
    "dawn": ["model.attention=eager"],
    "hex": ["sampler.search.particles=4"],  # as many as a completion of 20 tokens allows
}


def outcome(run: Path) -> dict[str, tuple]:
    """Of each example what no rounding may change."""
    return {s["id"]: tuple(s[key] for key in ("tokens", "order", "cost", "committed")) for s in samples_of(run)}


QUICK = {
    "confidence": (6,), "dus": (6,), "threshold": (6,), "klass": (6,), "p2": (6,), "wino": (6,), "r3": (6,), "lopa": (6,),
    "freedave": (6,), "rws": (6, 1), "a_cfg": (6,), "smc": (6, 1),
}  # fmt: skip
"""Samplers that the test suite decodes, and in which batches; the slow tests decode the others. `test_contract.py` has all
parts in several batches."""


@pytest.mark.parametrize(
    ("name", "sizes"),
    [pytest.param(name, QUICK.get(name, (6,)), marks=[] if name in QUICK else pytest.mark.slow) for name in SAMPLERS],
)
def test_a_sampler_runs_within_its_plan_and_whatever_the_batch(
    rws, tmp_path: Path, name: str, sizes: tuple[int, ...]
) -> None:
    settings = [f"sampler={name}", "benchmark=arithmetic", "benchmark.limit=3", *SPARE.get(name, [])]
    runs = []
    for size in sizes:
        result = rws("run", *settings, f"runtime.batch_size={size}")
        assert result.exit_code == 0, result.output
        runs.append(tmp_path / "outputs" / "arithmetic" / f"tiny-{name}" / f"v00{len(runs) + 1}")
    decoded = outcome(runs[0])
    assert decoded == outcome(runs[-1])
    assert all(cost["mdm_passes"] and committed for _, _, cost, committed in decoded.values())
    bound = plan(compose(*settings))
    cost = json.loads((runs[0] / "metrics.json").read_text())["cost"]
    assert cost["mdm_passes"] <= bound["MDM passes, at most"]
    assert cost["mdm_tokens"] <= bound["tokens through the MDM, at most"]
    assert cost["reward_calls"] <= bound["reward calls, at most"]
    described = choices("sampler")[name]
    assert ("reward" in described) == (cost["reward_calls"] > 0) or name == "constant_scale"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_drafted_steps_change_no_token(name: str) -> None:
    """On the bundled model in float32: three seeds, 2, 4, and 8 canvases in a pass, one prompt or five at a time."""
    settings = [f"sampler={name}", "benchmark=arithmetic", "benchmark.limit=5", *SPARE.get(name, [])]
    config = compose(*settings)
    if reason := config.sampler.schedule.not_drafted:
        with pytest.raises(UsageError, match=reason):
            compose(*settings, "runtime.speculate=2")
        return
    compose(*settings, "runtime.speculate=2")
    prepared = prepare(config)
    components = load(config, prepared)
    saved = 0
    for seed, (depth, size) in enumerate(((2, 1), (4, 5), (8, 5))):
        runs = []
        for speculate in (0, depth):
            runtime = replace(config.runtime, batch_size=size, speculate=speculate)
            decoder = BatchDecoder(replace(config, seed=seed, runtime=runtime), prepared, components)
            runs.append({s["id"]: s for outcome in decoder(prepared.examples) for s in outcome.samples})
        plain, drafted = runs
        assert len(plain) == 5
        for key in ("tokens", "order", "committed"):
            assert {name: s[key] for name, s in plain.items()} == {name: s[key] for name, s in drafted.items()}
        passes = [(s["cost"]["mdm_passes"], drafted[name]["cost"]["mdm_passes"]) for name, s in plain.items()]
        assert all(few <= many for many, few in passes)
        saved += sum(many - few for many, few in passes)
    assert saved or name not in ("confidence", "rws", "left_to_right", "margin", "fk")


def test_the_bound_of_wino_counts_shadows() -> None:
    settings = ["benchmark.limit=1", "sampler.gen_length=36", "sampler.block_length=36"]
    plain, shadowed = (plan(compose(*settings, *more)) for more in ([], ["sampler=wino", "reward=none"]))
    name = "tokens through the MDM, at most"
    assert shadowed[name] == plain[name] + 36 * 36


@pytest.mark.parametrize("kind", ["prefix", pytest.param("dual", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [["sampler=rws", "sampler.guidance.reward_every=2"], ["sampler=threshold", "guidance=rws"], ["sampler=smc"]],
    ids=lambda settings: settings[0],
)
def test_a_cache_is_recorded_costs_less_and_is_the_same_in_any_batch(
    rws, tmp_path: Path, settings: list[str], kind: str
) -> None:
    settings = [*settings, "benchmark=arithmetic", "benchmark.limit=4", "sampler.block_length=5", "output=o"]
    for cache, size in ((kind, 8), (kind, 1), ("none", 8)):
        result = rws("run", *settings, f"runtime.cache={cache}", f"runtime.batch_size={size}")
        assert result.exit_code == 0, result.output
    together, alone, exact = sorted((tmp_path / "o" / "arithmetic").glob("*/v*"))
    assert outcome(together) == outcome(alone)
    hashes = [json.loads((run / "manifest.json").read_text())["config_hash"] for run in (together, alone, exact)]
    assert hashes[0] == hashes[1] != hashes[2]
    tokens = [json.loads((run / "metrics.json").read_text())["cost"]["mdm_tokens"] for run in (together, exact)]
    assert tokens[0] < tokens[1]
