"""The same tokens whatever the batch, the order of the examples and the number of shards; bit for bit where asked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FakeDenoiser, make_sampler, new_canvas, samples_of, search

from rws_cli.decoding.statistics import Statistics
from rws_cli.guidance.rws import Rws
from rws_cli.schedules.dream import Dream
from rws_cli.schedules.eb import EntropyBound
from rws_cli.schedules.factor import Factor
from rws_cli.schedules.klass import Klass
from rws_cli.schedules.prophet import Prophet
from rws_cli.schedules.refine import Refine
from rws_cli.schedules.remdm import Remdm
from rws_cli.schedules.threshold import Threshold
from rws_cli.schedules.wino import Wino
from rws_cli.search.best_of_n import BestOfN
from rws_cli.search.fk import Fk
from rws_cli.search.smc import SelfRewardingSmc

GEN = 8
RWS = Rws(
    kind="rws",
    strength=2.0,
    form="linear",
    normalize="sigmoid",
    fill="argmax",
    target="all",
    reward_every=2,
    floor=1e-3,
)
SAMPLERS = {
    **{order: {"order": order} for order in ("confidence", "margin", "entropy", "random", "left_to_right")},
    "rws": {"guidance": RWS},
    "rws sampled": {"guidance": Rws(kind="rws", strength=2.0, form="exponential", normalize="zscore", fill="sample", target="proposed", reward_every=1, floor=1e-3), "temperature": 0.8},
    "temperature": {"temperature": 1.3, "order_temperature": 0.5},
    "threshold": {"schedule": Threshold(kind="threshold", threshold=0.5)},
    "factor": {"schedule": Factor(kind="factor", factor=0.7), "guidance": RWS},
    "eb": {"schedule": EntropyBound(kind="eb", gamma=0.5)},
    "klass": {"schedule": Klass(kind="klass", threshold=0.5, kl=0.1, history=1), "block_length": 4},
    "prophet": {"schedule": Prophet(kind="prophet", early=3.0, middle=2.0, late=1.0), "block_length": 4, "guidance": RWS},
    "dream": {"schedule": Dream(kind="dream", eps=1e-3, origin=False), "temperature": 0.5, "top_p": 0.7, "ties": "probability"},
    "origin": {"schedule": Dream(kind="dream", eps=1e-3, origin=True)},
    "remdm": {"schedule": Remdm(kind="remdm", sigma="conf", eta=0.3, t_on=None, t_off=None), "temperature": 1.0},
    "refine": {"schedule": Refine(kind="refine", share=0.5, rounds=2, remask=1)},
    "wino": {"schedule": Wino(kind="wino", threshold=0.4, verify=0.5, most=4, share=0.7, least=2)},
    "best_of_n": {"search": BestOfN(kind="best_of_n", particles=2), "temperature": 1.0},
    "smc": {"search": SelfRewardingSmc(kind="smc", particles=2, ess=0.9, ending="draw"), "temperature": 1.0, "block_length": 4},
    "fk": {"search": Fk(kind="fk", particles=2, beta=0.5, potential="max", every=2, completions=1, fill="argmax", ending="draw"), "temperature": 1.0},
}  # fmt: skip
PROMPTS = [[1 + (3 * n + k) % 9 for k in range(1 + n % 4)] for n in range(7)]


class Scorer:
    """Each text's score is a function of its tokens alone."""

    statistics = Statistics(0.5, 0.3, 0.0, 1.0)

    def __call__(self, rows: list[int], tokens_BG: torch.Tensor, filled: list[float], step: int) -> list[float]:
        return [hash(tuple(ids)) % 1009 / 1009 for ids in tokens_BG.tolist()]


def decoded(name: str, shard: list[int], seed: int) -> dict[int, list[int]]:
    """The answers to some of the prompts, decoded together."""
    sampler = make_sampler(GEN, **SAMPLERS[name])
    model = FakeDenoiser(seed=seed)
    rows = [(i, n) for i in shard for n in range(sampler.search.particles)]
    names = [f"example-{i} particle {n}" if n else f"example-{i}" for i, n in rows]
    canvas = new_canvas([PROMPTS[i] for i, _ in rows], names, GEN, model.mask_id, 0, seed=3)
    found = search(model, canvas, sampler, Scorer())
    return dict(zip(shard, canvas.completion_BG[found.rows].tolist(), strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(7)), cuts=st.sets(st.integers(1, 6)), seed=st.integers(0, 3))
def test_any_order_in_any_shards(name: str, order: list[int], cuts: set[int], seed: int) -> None:
    """Shards may hold one example or all, in any order."""
    together = decoded(name, list(range(7)), seed)
    ends = [0, *sorted(cuts), 7]
    apart: dict[int, list[int]] = {}
    for begin, end in itertools.pairwise(ends):
        apart |= decoded(name, order[begin:end], seed)
    assert apart == together


def test_deterministic_runs_agree_bit_for_bit(rws, tmp_path: Path) -> None:
    """Rewards and confidences too, at other batch sizes and limits; without the setting rounding depends on the batch."""
    settings = ["benchmark=arithmetic", "sampler.tokens_per_step=2"]
    for name, more in {
        "a": ["runtime.deterministic=true", "runtime.batch_size=7", "benchmark.limit=12"],
        "b": ["runtime.deterministic=true", "benchmark.limit=5"],
        "c": ["runtime.batch_size=12", "benchmark.limit=12"],
    }.items():
        assert rws("run", *settings, *more, f"output={name}").exit_code == 0
    a, b, c = ({s["id"]: s for s in samples_of(tmp_path / name / "arithmetic" / "tiny-rws" / "v001")} for name in "abc")
    assert {i: a[i] for i in b} == b
    assert [s["tokens"] for s in a.values()] == [s["tokens"] for s in c.values()]
    manifests = [json.loads((tmp_path / n / "arithmetic/tiny-rws/v001/manifest.json").read_text()) for n in "ac"]
    assert manifests[0]["config_hash"] == manifests[1]["config_hash"]


@pytest.mark.parametrize("sampler", [pytest.param("confidence", marks=pytest.mark.slow), "rws"])
def test_the_same_tokens_at_batch_1_2_7_and_32(rws, tmp_path: Path, sampler: str) -> None:
    found = []
    for size in (32, 1, 2, 7):
        command = [
            "run",
            f"sampler={sampler}",
            "benchmark=arithmetic",
            "benchmark.limit=33",
            "sampler.tokens_per_step=4",
        ]
        assert rws(*command, f"runtime.batch_size={size}", f"output=b{size}").exit_code == 0
        run = tmp_path / f"b{size}" / "arithmetic" / f"tiny-{sampler}" / "v001"
        found.append([(s["id"], s["tokens"], s["order"]) for s in samples_of(run)])
    assert all(one == found[0] for one in found)
