"""Drafted steps change no token and no record, and no decoding takes more passes."""

from typing import Any

import pytest
import torch
from block_models import block_denoiser
from decoding.test_prefix_cache import PROMPTS, SAMPLERS, completions
from support import FakeDenoiser, make_sampler
from test_contract import assert_lossless

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Completion
from rws_cli.decoding.speculate import DEPTHS, TRIAL, WARM_UP, Depth


@pytest.mark.parametrize(
    ("name", "anchor", "first_token", "shift"),
    [
        pytest.param(name, "sequence", False, 0, marks=[] if name == "threshold" else pytest.mark.slow)
        for name in SAMPLERS
    ]
    + [(name, *rest) for name, *rest in (("confidence", "completion", False, 0), ("rws", "sequence", True, 1))],
)
def test_drafts_share_the_exact_cache_of_block_models(name: str, anchor: str, first_token: bool, shift: int) -> None:
    denoiser = block_denoiser(4, anchor, first_token, shift)
    for rows, cached in ((3, True), (1, len(name) % 2 == 0)):
        sampler = make_sampler(12, **({"block_length": 4} | SAMPLERS[name]))
        plain, drafted = (completions(denoiser, sampler, rows, cached, PROMPTS, depth) for depth in (0, 3))
        assert_lossless(plain, drafted)


def decoded(model: FakeDenoiser, depth: int, length: int, **settings: Any) -> Completion:
    sampler = make_sampler(length, block_length=length, **settings)
    decoder = Decoder(model, [prompt_of([1, 2, 3], 0, "0")], sampler, speculate=depth)
    return next(one for some in decoder.run() for one in some)


class Constant(FakeDenoiser):
    """Logits depend on the position alone, so every draft is right."""

    def logits(self, tokens_BL: Any, attention_BL: Any, wanted_BL: Any, *_: Any, **__: Any) -> Any:
        return (self.place[wanted_BL.nonzero()[:, 1]] @ self.head).float()


class Adverse(FakeDenoiser):
    """The likeliest token, and the order, depend on how many masks there are, so every draft is wrong."""

    def logits(self, tokens_BL: Any, attention_BL: Any, wanted_BL: Any, *_: Any, **__: Any) -> Any:
        row_N, column_N = wanted_BL.nonzero().T
        masks_N = (tokens_BL == self.mask_id).sum(1)[row_N]
        logits_NV = torch.zeros(len(row_N), self.vocabulary)
        logits_NV[torch.arange(len(row_N)), masks_N % 7] = 1.0 + column_N.float() / 100
        return logits_NV


@pytest.mark.parametrize("depth", [2, 4, 8])
@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_passes_where_drafts_are_all_right_or_all_wrong(depth: int, length: int) -> None:
    """The first step has nothing to draft from; each later pass serves `depth` steps, or one."""
    right, wrong = decoded(Constant(), depth, length), decoded(Adverse(), depth, length)
    assert right.tokens == decoded(Constant(), 0, length).tokens
    assert right.cost.mdm_passes == 1 + -(-(length - 1) // depth)
    assert wrong.tokens == decoded(Adverse(), 0, length).tokens
    assert wrong.cost.mdm_passes == length
    if length > depth:
        assert wrong.cost.mdm_rows > length
    tokens = 3 + length
    assert right.cost.mdm_tokens == right.cost.mdm_rows * tokens


def chosen(seconds: dict[int, float], steps: int = 100) -> tuple[int, float]:
    """The depth that is chosen where a step takes so long at each depth, and the seconds of all steps."""
    depth, now, at = Depth(), 0.0, 1
    for _ in range(steps):
        at = depth.step(now)
        now += seconds[at]
    return at, now


def test_the_depth_that_is_fastest_is_chosen() -> None:
    """A trial of a slower depth costs its warm-up, and ends once it has lost the time of two plain steps."""
    assert DEPTHS == (1, 2, 4, 8)
    assert chosen({1: 1.0, 2: 1.8, 4: 3.0, 8: 7.0}) == (1, pytest.approx(100 + (WARM_UP + 3) * 0.8))
    assert chosen({1: 1.0, 2: 0.7, 4: 0.5, 8: 0.6})[0] == 4
    assert chosen({1: 1.0, 2: 0.7, 4: 0.5, 8: 0.3})[0] == 8
    assert chosen({1: 1.0, 2: 50.0, 4: 1.0, 8: 1.0}) == (1, 100 + (WARM_UP + 1) * 49)
    assert WARM_UP + TRIAL < 20


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["runtime.speculate=1"],
            "runtime.speculate=1 is not known: it must be 0, auto, or 2 to 64 canvases per pass.",
        ),
        (["runtime.speculate=often"], "runtime.speculate=often is not known"),
        (["runtime.speculate=2", "runtime.deterministic=true"], "does not work with runtime.deterministic=true"),
        (["runtime.speculate=2", "runtime.cache=dual"], "does not work with runtime.cache=dual, which is not exact"),
        (["runtime.speculate=auto", "sampler=wino"], "sampler.schedule.kind=wino: its passes also read a shadow"),
    ],
)
def test_what_cannot_be_drafted_is_refused(rws: Any, overrides: list[str], sentence: str) -> None:
    done = rws("run", "benchmark.limit=1", "--dry-run", *overrides)
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())
