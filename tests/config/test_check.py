"""Every configuration composes and checks; every mistake gets one sentence that names it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support import make_sampler

from rws_cli.config.catalog import CONF, GROUPS, choices
from rws_cli.config.composing import compose as checked
from rws_cli.config.composing import unchecked
from rws_cli.config.identity import config_hash, differing_keys, identity
from rws_cli.config.keys import known_keys
from rws_cli.errors import UsageError


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_has_a_description(group: str) -> None:
    assert choices(group)
    assert all(len(line) > 15 for line in choices(group).values())


@pytest.mark.parametrize("group", ["model", "sampler", "benchmark", "reward"])
def test_every_choice_composes_and_checks(group: str) -> None:
    for name in choices(group):
        if (group, name) == ("model", "auto"):
            continue  # another kind takes its place: tests/models/test_families.py
        needs = {
            "reward=none": ["sampler=confidence"],
            "reward=classifier": ["reward.path=owner/model"],
            "reward=rubric": ["reward.tree=criteria.yaml"],
            **{
                f"reward={name}": ["trust_remote_code=true", f"pins.{name}={'0' * 40}"]
                for name in ("intern", "eurus", "qrm")
            },
            "sampler=dawn": ["model.attention=eager"],
            "sampler=recorded_scale": ["sampler.guidance.run=outputs/sudoku/tiny-rws"],
            "benchmark=prompt": ["benchmark.text=hello"],
            "benchmark=lm_eval": ["benchmark.task=gsm8k", "benchmark.name=lm_eval"],
            "model=causal": ["sampler=autoregressive"],
        }
        more = needs.get(f"{group}={name}", [])
        preset = (CONF / group / f"{name}.yaml").read_text()
        if group == "model" and "path: ???" in preset:
            more = ["model.path=owner/model"]
        if group == "model" and "block_size: " in preset:
            more = ["benchmark.gen_length=64"]
        config = checked(f"{group}={name}", *more)
        assert getattr(config, group).name == name
        assert config.sampler.gen_length == config.benchmark.gen_length


def test_every_method_metric_and_judge_composes_and_checks() -> None:
    code = ["trust_remote_code=true", *(f"pins.{name}={'0' * 40}" for name in ("intern", "eurus", "qrm"))]
    for method in choices("method"):
        assert checked(f"+method={method}", *code).label
    for judge in choices("judge"):
        assert checked(f"judge={judge}").judge.name == judge
    for metric in choices("metric"):
        assert list(checked(f"metric=[{metric}]").metric)


def test_the_schema_and_conf_hold_the_same_keys() -> None:
    """No key in conf/ that nothing reads."""
    known = set(known_keys())
    container = OmegaConf.to_container(unchecked(), resolve=False)
    assert isinstance(container, dict)
    missing = {key for key in differing_keys(container, {}) if key not in known}
    assert not missing


MISTAKES = [
    (["seed=abc"], "seed=abc has the wrong type: a whole number"),
    (["seed=null"], "seed"),
    (["sampler.temperature=-1"], "sampler.temperature=-1.0 is out of range: it must be at least 0"),
    (["sampler.temperature=nan"], "out of range"),
    (["reward=composite", "reward.weights.a=x"], "reward.weights.a=x has the wrong type: a number"),
    (["reward=composite", "~reward.weights.a"], "reward.weights has b and reward.components has a, b"),
    (["reward=composite", "reward@reward.components.a=none"], "reward.components.a.kind=none is not known: choose from classifier"),
    (["reward=composite", "reward.components.a.dtype=int4"], "reward.components.a.dtype=int4 is not known"),
    (["reward=composite", "reward.components.a.trust_remote_code=true"], "reward.components.a.trust_remote_code=true runs Python"),
    (["sampler.top_p=0"], "sampler.top_p=0.0 is out of range: it must be greater than 0"),
    (["sampler.top_p=1.5"], "at most 1"),
    (["sampler.block_length=5"], "does not divide sampler.gen_length=36: choose from 1, 2, 3, 4, 6, 9, 12, 18, 36"),
    (["sampler.steps=8", "sampler.tokens_per_step=2"], "both set"),
    (["sampler.steps=40"], "at most sampler.gen_length=36"),
    (["sampler.steps=10", "sampler.block_length=9"], "not a multiple of the 4 blocks"),
    (["sampler.tokens_per_step=10", "sampler.block_length=9"], "at most sampler.block_length=9"),
    (["sampler.order=confidense"], "did you mean confidence"),
    (["sampler.guidance.kind=rwz"], "sampler.guidance.kind=rwz is not known: choose from a_cfg, constant_scale, credit, entrgi, none, recorded_scale, rws"),
    (["sampler.guidance.strength=-2"], "sampler.guidance.strength=-2.0 is out of range"),
    (["+sampler.guidance.strenght=2"], "sampler.guidance.strenght is not a setting here; did you mean sampler.guidance.strength"),
    (["+sampler.tempature=1"], "did you mean sampler.temperature"),
    (["+colour=red"], "colour is not a setting"),
    (["runtime.batch_size=1.5"], "runtime.batch_size=1.5 has the wrong type: a whole number"),
    (["benchmark.limit=0"], "benchmark.limit=0 is out of range: it must be at least 1"),
    (["reward=none"], "needs a reward"),
    (["model.trust_remote_code=true"], "model.revision"),
    (["reward=constant", "sampler.guidance.normalize=none", "reward.value=-1"], "reward.value=-1.0"),
    (["model=tiny", "~model.path"], "model.path is not set"),
    (["sampler.block_length=${nowhere}"], "cannot be resolved"),
    (["sampler=best_of_n", "reward=none"], "sampler.search.kind=best_of_n needs a reward"),
    (["sampler=fk", "reward=none"], "sampler.search.kind=fk needs a reward"),
    (["sampler=r3", "reward=none"], "sampler.remasking.kind=r3 needs a reward"),
    (["sampler=entrgi", "reward=none"], "sampler.guidance.kind=entrgi needs a reward"),
    (["sampler=entrgi", "reward=verifier"], "needs the reward's gradient, and reward=verifier has none"),
    (["sampler=entrgi", "reward=composite"], "needs the reward's gradient"),
    (["sampler=entrgi", "reward=qrm", "trust_remote_code=true", f"pins.qrm={'0' * 40}"], "does not accept"),
    (["sampler=confidence", "search=smc"], "4 equal particles: with sampler.temperature=0"),
    (["sampler=best_of_n", "sampler.temperature=0"], "4 equal particles"),
    (["sampler=threshold", "sampler.tokens_per_step=2"], "decides itself how many steps it takes: set sampler.tokens_per_step=null"),
    (["sampler=wino", "sampler.steps=12"], "set sampler.steps=null"),
    (["sampler=pc", "sampler.order=confidence"], "sampler.pc is not a setting here"),
    (["sampler=remdm_loop", "sampler.schedule.t_off=0.9"], "t_off the smaller"),
    (["sampler=remdm_loop", "sampler.schedule.t_off=null"], "must both be null"),
    (["sampler=remdm_llada", "sampler.schedule.remask=32"], "is more than the share 0.875 of a block of 36"),
    (["sampler=remdm_loop", "sampler.schedule.alpha_on=null"], "alpha_on=None must both be null"),
    (["sampler=remdm_loop", "sampler.schedule.t_on=1"], "t_on below 1"),
    (["sampler=prophet", "sampler.schedule.answer_start=36"], "is beyond the completion of sampler.gen_length=36 tokens"),
    (["sampler=wino", "model=dream"], "does not fit model.kind=dream"),
    (["sampler=wino", "model=masked_lm"], "does not fit model.kind=masked_lm"),
    (["sampler=wino", "sampler.cfg_scale=1"], "predicts a block twice"),
    (["sampler=wino", "sampler.eos=stop"], "remasks tokens: set sampler.eos=none"),
    (["sampler=p2", "sampler.eos=stop"], "remasks tokens: set sampler.eos=none"),
    (["sampler=rcr", "model=sdar_1_7b"], "sampler.schedule.window=null would mask tokens of earlier blocks"),
    (["sampler=core", "sampler.eos=stop"], "may replace an end token until its block is done"),
    (["sampler=core", "sampler.schedule.stop=0.2"], "sampler.schedule.start=0.25 must be less"),
    (["sampler=core", "guidance=rws"], "no guidance has changed"),
    (["sampler=r3", "sampler.eos=stop"], "remasks tokens: set sampler.eos=none"),
    (["sampler=r3", "sampler.schedule.kind=prophet", "+sampler.schedule.early=1", "+sampler.schedule.middle=1", "+sampler.schedule.late=1"], "decodes remasked tokens"),
    (["sampler=remdm_cap", "search=smc"], "weighs committed tokens, and this sampler revises them: use best_of_n"),
    (["sampler=threshold", "search=fk", "sampler.temperature=1"], "needs particles that commit alike"),
    (["sampler=fk", "sampler.search.completions=2"], "set sampler.search.fill=sample"),
    (["sampler=confidence", "benchmark.completions=2"], "would all be the same"),
    (["runtime.cache=dule"], "did you mean dual"),
    (["runtime.cache_refresh=4"], "has no effect without a cache: set runtime.cache=prefix or dual"),
    (["runtime.cache=prefix", "sampler=remdm_cap"], "does not work with sampler.schedule.kind=remdm: set runtime.cache=none."),
    (["runtime.cache=dual", "sampler=wino"], "does not work with sampler.schedule.kind=wino"),
    (["runtime.cache=dual", "sampler=r3"], "does not work with sampler.remasking.kind=r3"),
    (["runtime.cache=prefix", "sampler.cfg_scale=1"], "does not work with sampler.cfg_scale=1.0"),
    (["runtime.cache=prefix", "model=masked_lm", "model.path=x"], "does not work with model.kind=masked_lm"),
    (["runtime.cache=prefix", "model.attention=flash_attention_2"], "does not work with model.attention=flash_attention_2"),
    (["runtime.cache=dual", "sampler=fk"], "sampler.search.kind=fk: set runtime.cache=none or runtime.cache=prefix."),
    (["runtime.cache=dual", "sampler=entrgi"], "sampler.guidance.kind=entrgi: set runtime.cache=none or runtime.cache=prefix."),
    (["runtime.cache=dual", "runtime.compile=true"], "does not work with runtime.compile=true"),
    (["runtime.compile=true", "model=masked_lm", "model.path=x"], "not model.kind=masked_lm: set runtime.compile=false"),
    (["+sampler.guidance.every=2"], "did you mean sampler.guidance.reward_every"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_are_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(*overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_steps_and_blocks_always_add_up(blocks: int, block_length: int, steps_per_block: int) -> None:
    sampler = make_sampler()
    sampler.gen_length, sampler.block_length = blocks * block_length, block_length
    sampler.steps = None
    assert sampler.blocks == blocks
    assert sampler.steps_per_block == block_length
    sampler.tokens_per_step = min(steps_per_block, block_length)
    assert (sampler.steps_per_block - 1) * sampler.tokens_per_step < block_length
    assert sampler.steps_per_block * sampler.tokens_per_step >= block_length


def test_identity_leaves_out_what_changes_no_token() -> None:
    a = OmegaConf.to_container(unchecked("runtime.batch_size=3", "output=elsewhere"), resolve=True)
    b = OmegaConf.to_container(
        unchecked("label=x", "+table.title=y", "metric=[length]", "judge=verifier"), resolve=True
    )
    c = OmegaConf.to_container(unchecked("sampler.temperature=0.5"), resolve=True)
    assert isinstance(a, dict) and isinstance(b, dict) and isinstance(c, dict)  # noqa: PT018
    assert config_hash(a) == config_hash(b) != config_hash(c)
    assert differing_keys(identity(b), identity(c)) == {"sampler.temperature": (0.0, 0.5)}
    cached = OmegaConf.to_container(unchecked("runtime.cache=dual", "runtime.threads=1"), resolve=True)
    assert isinstance(cached, dict)
    assert differing_keys(identity(a), identity(cached)) == {"runtime.cache": (None, "dual")}
