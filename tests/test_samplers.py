"""Every sampler on the bundled model: it runs, costs no more than its plan says, and is the same in any batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import samples_of

from rws_cli.config import choices, compose
from rws_cli.plan import plan

SAMPLERS = [name for name in choices("sampler") if name != "replay"]
SPARE = {"entrgi": ["sampler.search.particles=2"], "particle_gibbs": ["sampler.search.particles=2"]}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_runs_within_its_plan_and_whatever_the_batch(rws, tmp_path: Path, name: str) -> None:
    settings = [f"sampler={name}", "benchmark=arithmetic", "benchmark.limit=3", *SPARE.get(name, [])]
    runs = []
    for size in (6, 1):
        result = rws("run", *settings, f"runtime.batch_size={size}")
        assert result.exit_code == 0, result.output
        runs.append(tmp_path / "outputs" / "arithmetic" / f"tiny-{name}" / f"v00{len(runs) + 1}")
    together, alone = (samples_of(run) for run in runs)
    by_id = {sample["id"]: sample for sample in alone}
    for sample in together:
        other = by_id[sample["id"]]
        assert sample["tokens"] == other["tokens"]
        assert sample["order"] == other["order"]
        assert sample["cost"] == other["cost"]
        assert 0 not in (sample["cost"]["mdm_passes"], sample["committed"])
    bound = plan(compose(*settings))
    cost = json.loads((runs[0] / "metrics.json").read_text())["cost"]
    assert cost["mdm_passes"] <= bound["MDM passes, at most"]
    assert cost["mdm_tokens"] <= bound["tokens through the MDM, at most"]
    assert cost["reward_calls"] <= bound["reward calls, at most"]
    described = choices("sampler")[name]
    assert ("reward" in described) == (cost["reward_calls"] > 0) or name == "temperature"
